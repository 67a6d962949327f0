//! Rules about Markdown: links lead somewhere, and the map is complete.

use std::collections::BTreeSet;

use crate::files::Tree;

/// Relative links to files, folders or headings that are not there.
pub(crate) fn dead_links(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for (page, text) in tree.with_extension("md") {
        for link in links(text).filter(|link| !is_elsewhere(link)) {
            let (path, heading) = link
                .split_once('#')
                .map_or((link, None), |(path, h)| (path, Some(h)));
            let target = if path.is_empty() {
                page.to_string()
            } else {
                resolve(page, path)
            };
            if !tree.has(&target) {
                findings.push(format!("{page} links to {link}, which is not there"));
            } else if let Some(heading) = heading
                && target.ends_with(".md")
                && !headings(tree.text(&target)).contains(heading)
            {
                findings.push(format!(
                    "{page} links to {link}, but {target} has no such heading"
                ));
            }
        }
    }
    findings
}

/// Crates that ARCHITECTURE.md does not name, and crates it names that are gone.
pub(crate) fn map_gaps(map: &str, crates: &BTreeSet<String>) -> Vec<String> {
    let named: BTreeSet<&str> = map.split('`').skip(1).step_by(2).collect();
    let missing = crates.iter().filter(|name| !named.contains(name.as_str()));
    let missing = missing.map(|name| format!("ARCHITECTURE.md does not name the crate {name}"));
    let gone = named
        .iter()
        .filter(|name| name.starts_with("pointsman-") && !crates.contains(**name));
    missing
        .chain(gone.map(|name| format!("ARCHITECTURE.md names the crate {name}, which is gone")))
        .collect()
}

/// Targets of the `[text](target)` links of a page, outside code.
fn links(text: &str) -> impl Iterator<Item = &str> {
    prose(text).flat_map(|line| {
        // Every second piece between backquotes is code.
        line.split('`').step_by(2).flat_map(|piece| {
            piece
                .split("](")
                .skip(1)
                .filter_map(|rest| rest.split([')', ' ']).next())
                .filter(|l| !l.is_empty())
        })
    })
}

/// Lines outside fenced code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        !in_code && !fence
    })
}

fn is_elsewhere(link: &str) -> bool {
    link.contains("://") || link.starts_with("mailto:")
}

/// The path a link of `page` means, from the top of the repository.
fn resolve(page: &str, link: &str) -> String {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    if link.starts_with('/') {
        parts.clear();
    }
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    parts.join("/")
}

/// Anchors of a page's headings, as GitHub makes them.
fn headings(text: &str) -> BTreeSet<String> {
    let titles = prose(text)
        .filter(|line| line.starts_with('#'))
        .map(|line| line.trim_start_matches('#').trim());
    let keep = |c: char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    titles
        .map(|title| {
            title
                .to_lowercase()
                .chars()
                .filter(|c| keep(*c))
                .collect::<String>()
                .replace(' ', "-")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_nothing_is_found_and_code_is_passed_over() {
        let page = "[a](b.md) [c](../README.md#the-plan) [d](../gone.md) [e](https://x.y/z)\n\
                    `[f](code)`\n```\n[g](fenced)\n```\n[h](../README.md#no) [i](#here)\n# Here\n";
        let tree = Tree::of(&[
            ("docs/a.md", page),
            ("docs/b.md", ""),
            ("README.md", "# The *plan*!\n"),
        ]);
        assert_eq!(
            dead_links(&tree),
            [
                "docs/a.md links to ../gone.md, which is not there",
                "docs/a.md links to ../README.md#no, but README.md has no such heading"
            ]
        );
    }

    #[test]
    fn a_crate_that_is_not_on_the_map_is_found() {
        let crates = BTreeSet::from(["pointsman-core".to_string(), "router-geo".to_string()]);
        assert_eq!(
            map_gaps("`pointsman-core` and `pointsman-old`", &crates),
            [
                "ARCHITECTURE.md does not name the crate router-geo",
                "ARCHITECTURE.md names the crate pointsman-old, which is gone"
            ]
        );
    }
}
