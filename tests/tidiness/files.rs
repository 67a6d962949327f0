//! Rules about files: where they are, how long, and what is in them.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// Longest Rust file, in lines. Most should be far below.
const LINES_MAX: usize = 700;

/// The one file that may hold unsafe code: it maps compiled modules back in after checking their MAC.
const UNSAFE_ALLOWED: &str = "broker/router/src/host/artefact.rs";

/// What may stand at the top of the repository, beside names that start with a dot.
const TOP_LEVEL: [&str; 18] = [
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "Makefile",
    "README.md",
    "SECURITY.md",
    "broker",
    "clippy.toml",
    "deny.toml",
    "examples",
    "rustfmt.toml",
    "sdk",
    "tests",
    "wasm-routers",
];

/// Folders that tools fill and git ignores.
const BUILT: [&str; 4] = ["target", ".git", "node_modules", "__pycache__"];

/// Folders whose files are bytes by nature: golden frames, fuzzing corpora and stores of released formats.
const BYTES_BY_NATURE: [&str; 4] = [
    "broker/store/tests/fixtures/",
    "sdk/protocol/tests/golden/",
    "tests/golden/",
    "tests/fuzz/",
];

/// The files of a repository by their path from its top, with `/` between folders.
#[derive(Default)]
pub(crate) struct Tree(BTreeMap<String, Vec<u8>>);

impl Tree {
    /// Reads a folder, but for what tools have built in it.
    pub(crate) fn read(top: &Path) -> io::Result<Tree> {
        let mut tree = Tree::default();
        tree.read_folder(top, "")?;
        Ok(tree)
    }

    /// A tree made up for a test.
    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Tree {
        let own = |(path, text): &(&str, &str)| (path.to_string(), text.as_bytes().to_vec());
        Tree(files.iter().map(own).collect())
    }

    fn read_folder(&mut self, folder: &Path, prefix: &str) -> io::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if BUILT.contains(&name.as_str()) {
                continue;
            }
            let path = format!("{prefix}{name}");
            if entry.file_type()?.is_dir() {
                self.read_folder(&entry.path(), &format!("{path}/"))?;
            } else if entry.file_type()?.is_file() {
                self.0.insert(path, std::fs::read(entry.path())?);
            }
        }
        Ok(())
    }

    /// All files with this extension, as text.
    pub(crate) fn with_extension<'a>(
        &'a self,
        extension: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0
            .iter()
            .filter(move |(path, _)| path.rsplit_once('.').is_some_and(|(_, found)| found == extension))
            .map(|(path, bytes)| (path.as_str(), std::str::from_utf8(bytes).unwrap_or("")))
    }

    /// One file's text; empty when it is not there.
    pub(crate) fn text(&self, path: &str) -> &str {
        self.0
            .get(path)
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .unwrap_or("")
    }

    /// Whether a file or a folder is there.
    pub(crate) fn has(&self, path: &str) -> bool {
        let folder = format!("{}/", path.trim_end_matches('/'));
        path.is_empty() || self.0.contains_key(path) || self.0.keys().any(|file| file.starts_with(&folder))
    }
}

/// Files and folders at the top that nobody agreed on.
pub(crate) fn strangers(tree: &Tree) -> Vec<String> {
    let mut tops: Vec<&str> = tree
        .0
        .keys()
        .map(|path| path.split('/').next().unwrap_or(path))
        .collect();
    tops.dedup();
    tops.retain(|top| !top.starts_with('.') && !TOP_LEVEL.contains(top));
    tops.iter()
        .map(|top| format!("{top} is not part of the agreed top level"))
        .collect()
}

/// Rust files over [`LINES_MAX`].
pub(crate) fn too_long(tree: &Tree) -> Vec<String> {
    tree.with_extension("rs")
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(path, lines)| format!("{path} has {lines} lines, over the limit of {LINES_MAX}"))
        .collect()
}

/// Unsafe code outside its one place.
pub(crate) fn unsafe_code(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for (path, text) in tree
        .with_extension("rs")
        .filter(|(path, _)| *path != UNSAFE_ALLOWED)
    {
        for (number, line) in text.lines().enumerate() {
            if has_unsafe(line) {
                findings.push(format!(
                    "{path}:{} has unsafe code, which only {UNSAFE_ALLOWED} may",
                    number + 1
                ));
            }
        }
    }
    findings
}

const KEYWORD: &str = "unsafe";

/// Whether the keyword stands on this line, outside comments and strings.
fn has_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or(line);
    code.match_indices(KEYWORD).any(|(at, _)| {
        let (before, after) = (&code[..at], &code[at + KEYWORD.len()..]);
        let joins = |c: char| c.is_alphanumeric() || c == '_';
        let is_word = !before.ends_with(joins) && !after.starts_with(joins);
        let in_string = before.matches('"').count() % 2 == 1;
        is_word && !in_string
    })
}

/// Files that are not text.
pub(crate) fn binaries(tree: &Tree) -> Vec<String> {
    let is_binary = |bytes: &[u8]| bytes.contains(&0) || std::str::from_utf8(bytes).is_err();
    tree.0
        .iter()
        .filter(|(path, _)| !BYTES_BY_NATURE.iter().any(|folder| path.starts_with(folder)))
        .filter(|(_, bytes)| is_binary(bytes))
        .map(|(path, _)| format!("{path} is a binary; build it from its source instead"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_at_the_top_is_found() {
        let tree = Tree::of(&[
            ("broker/a.rs", ""),
            ("misc/a.rs", ""),
            (".ci/run", ""),
            ("notes.txt", ""),
        ]);
        assert_eq!(
            strangers(&tree),
            [
                "misc is not part of the agreed top level",
                "notes.txt is not part of the agreed top level"
            ]
        );
    }

    #[test]
    fn a_file_one_line_over_the_limit_is_found() {
        let longest = "x\n".repeat(LINES_MAX);
        let longer = "x\n".repeat(LINES_MAX + 1);
        let tree = Tree::of(&[("a.rs", &longest), ("b.rs", &longer), ("c.md", &longer)]);
        assert_eq!(too_long(&tree), ["b.rs has 701 lines, over the limit of 700"]);
    }

    #[test]
    fn the_keyword_is_found_in_code_only() {
        for line in [
            "unsafe { x() }",
            "pub unsafe fn x() {}",
            "#[unsafe(no_mangle)]",
            "a(unsafe{x()})",
        ] {
            assert!(has_unsafe(line), "{line}");
        }
        for line in ["#![forbid(unsafe_code)]", "// unsafe { }", "let not_unsafe = 1;"] {
            assert!(!has_unsafe(line), "{line}");
        }
        assert!(!has_unsafe(&format!("let text = \"{KEYWORD}\";")));
        let tree = Tree::of(&[
            ("a.rs", "\nunsafe fn x() {}"),
            (UNSAFE_ALLOWED, "unsafe fn x() {}"),
        ]);
        assert_eq!(unsafe_code(&tree).len(), 1);
    }

    #[test]
    fn a_module_that_was_checked_in_is_found() {
        let tree = Tree::of(&[
            ("a.wasm", "\0asm"),
            ("b.wat", "(module)"),
            ("tests/golden/hello", "\0"),
        ]);
        assert_eq!(
            binaries(&tree),
            ["a.wasm is a binary; build it from its source instead"]
        );
    }
}
