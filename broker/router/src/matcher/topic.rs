//! Topic patterns: words between dots, `*` for one word, `#` for any number of words.
//!
//! The patterns of an exchange share a trie of words. A key runs through it as through a nondeterministic automaton:
//! a set of live nodes moves forward word by word. So the cost of a message is at most its words times the live
//! nodes, whatever the patterns; a matcher that backtracks over `#` would be exponential.

use std::ops::Range;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

/// Patterns of one exchange and the bindings that have them.
pub(crate) struct Trie {
    /// Numbers of the words that occur in patterns. Only operators put words here, so publishers cannot make the hash
    /// collide and it may be a fast one.
    words: FxHashMap<Box<str>, u32>,
    nodes: Vec<Node>,
    /// How many nodes were entered by `#`.
    hashes: u32,
}

#[derive(Default)]
struct Node {
    /// Children by word number, sorted.
    words: Vec<(u32, u32)>,
    /// The child by `*`.
    star: Option<u32>,
    /// The child by `#`. It stays live over any word.
    hash: Option<u32>,
    /// Its number among the nodes that were entered by `#`.
    entered_by_hash: Option<u32>,
    /// The bindings whose pattern ends here.
    bindings: Range<u32>,
}

/// Stands for words that occur in no pattern.
const UNKNOWN_WORD: u32 = u32::MAX;

type Live = SmallVec<[u32; 16]>;

/// One bit for each node that was entered by `#`: a key may reach such a node by several ways at once.
type HashBits = SmallVec<[u64; 4]>;

impl Trie {
    /// `patterns` are binding keys, each once, with the numbers of their bindings.
    pub(crate) fn new<'a>(patterns: impl Iterator<Item = (&'a str, Range<u32>)>) -> Trie {
        let mut trie = Trie {
            words: FxHashMap::default(),
            nodes: vec![Node::default()],
            hashes: 0,
        };
        for (pattern, bindings) in patterns {
            let end = split(pattern).fold(0, |node, word| trie.child(node, word));
            trie.nodes[end as usize].bindings = bindings;
        }
        trie
    }

    /// Calls `found` with the bindings of each pattern that takes `key`.
    pub(crate) fn matches(&self, key: &str, mut found: impl FnMut(Range<u32>)) {
        // Swapped at each word: the references, not what is in them.
        let (mut live, mut next) = (&mut Live::new(), &mut Live::new());
        let mut seen: HashBits = smallvec::smallvec![0; self.hashes.div_ceil(64) as usize];
        self.enter(0, live, &mut seen);
        for word in split(key) {
            let word = self.words.get(word).copied().unwrap_or(UNKNOWN_WORD);
            seen.fill(0);
            for &at in &*live {
                let node = &self.nodes[at as usize];
                if node.entered_by_hash.is_some() {
                    self.enter(at, next, &mut seen);
                }
                if let Ok(found) = node.words.binary_search_by_key(&word, |(word, _)| *word) {
                    self.enter(node.words[found].1, next, &mut seen);
                }
                if let Some(star) = node.star {
                    self.enter(star, next, &mut seen);
                }
            }
            std::mem::swap(&mut live, &mut next);
            next.clear();
        }
        for &at in &*live {
            let bindings = &self.nodes[at as usize].bindings;
            if !bindings.is_empty() {
                found(bindings.clone());
            }
        }
    }

    /// Makes a node live, and those behind it that `#` reaches without a word. Only a node entered by `#` can be
    /// reached twice for the same word: every other one has a single way in, from a node that is live once.
    fn enter(&self, node: u32, live: &mut Live, seen: &mut HashBits) {
        let mut at = Some(node);
        while let Some(node) = at {
            if let Some(number) = self.nodes[node as usize].entered_by_hash {
                let bit = 1 << (number % 64);
                let word = &mut seen[number as usize / 64];
                if *word & bit != 0 {
                    return;
                }
                *word |= bit;
            }
            live.push(node);
            at = self.nodes[node as usize].hash;
        }
    }

    /// The child of `node` by a word of a pattern, made if needed.
    fn child(&mut self, node: u32, word: &str) -> u32 {
        let new = self.nodes.len() as u32;
        let parent = &mut self.nodes[node as usize];
        let child = match word {
            "*" => *parent.star.get_or_insert(new),
            "#" => *parent.hash.get_or_insert(new),
            _ => {
                let words = self.words.len() as u32;
                let word = *self.words.entry(word.into()).or_insert(words);
                match parent.words.binary_search_by_key(&word, |(word, _)| *word) {
                    Ok(found) => parent.words[found].1,
                    Err(at) => {
                        parent.words.insert(at, (word, new));
                        new
                    }
                }
            }
        };
        if child == new {
            let mut made = Node::default();
            if word == "#" {
                made.entered_by_hash = Some(self.hashes);
                self.hashes += 1;
            }
            self.nodes.push(made);
        }
        child
    }
}

/// The words of a key or pattern. An empty one has no words, as in RabbitMQ.
fn split(key: &str) -> Words<'_> {
    Words((!key.is_empty()).then_some(key))
}

/// What is left of a key; `None` after its last word.
struct Words<'a>(Option<&'a str>);

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    // Words are short: a loop finds the dot sooner than the machinery of `str::split` starts.
    fn next(&mut self) -> Option<&'a str> {
        let rest = self.0?;
        let (word, rest) = match rest.bytes().position(|byte| byte == b'.') {
            Some(dot) => (&rest[..dot], Some(&rest[dot + 1..])),
            None => (rest, None),
        };
        self.0 = rest;
        Some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matching(patterns: &[&str], key: &str) -> Vec<u32> {
        let mut sorted = patterns.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let trie = Trie::new(sorted.iter().copied().zip((0u32..).map(|n| n..n + 1)));
        let mut found = Vec::new();
        trie.matches(key, |run| found.extend(run));
        found.sort_unstable();
        found
    }

    /// The definition of a topic pattern, by backtracking.
    fn naive(pattern: &[&str], key: &[&str]) -> bool {
        match pattern.split_first() {
            None => key.is_empty(),
            Some((&"#", rest)) => (0..=key.len()).any(|skipped| naive(rest, &key[skipped..])),
            Some((&"*", rest)) => !key.is_empty() && naive(rest, &key[1..]),
            Some((word, rest)) => key.first() == Some(word) && naive(rest, &key[1..]),
        }
    }

    #[test]
    fn the_trie_agrees_with_the_definition_on_random_patterns_and_keys() {
        let mut random = fastrand::Rng::with_seed(11);
        let alphabet = ["a", "b", "", "*", "#", "#"];
        let mut hits = 0;
        for _ in 0..3_000 {
            let patterns: Vec<String> = (0..random.usize(1..30))
                .map(|_| {
                    let words: Vec<_> = (0..random.usize(..6))
                        .map(|_| *random.choice(&alphabet).unwrap())
                        .collect();
                    words.join(".")
                })
                .collect();
            let mut patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
            patterns.sort_unstable();
            patterns.dedup();
            let key: Vec<_> = (0..random.usize(..7))
                .map(|_| *random.choice(&["a", "b", "c", ""]).unwrap())
                .collect();
            let key = key.join(".");
            let words: Vec<&str> = split(&key).collect();
            let expected: Vec<u32> = (0u32..)
                .zip(&patterns)
                .filter(|(_, pattern)| naive(&split(pattern).collect::<Vec<_>>(), &words))
                .map(|(number, _)| number)
                .collect();
            hits += expected.len();
            assert_eq!(
                matching(&patterns, &key),
                expected,
                "patterns {patterns:?}, key {key:?}"
            );
        }
        assert!(hits > 1_000, "the generator hit only {hits} times");
    }

    #[test]
    fn patterns_full_of_hashes_cost_no_more_than_words_times_nodes() {
        // Backtracking over this takes longer than the universe has.
        let pattern = "#.a.".repeat(60) + "end";
        let key = "a.".repeat(120) + "b";
        assert_eq!(matching(&[&pattern], &key), Vec::<u32>::new());
    }

    #[test]
    fn an_empty_key_has_no_words() {
        assert_eq!(matching(&["#", "*", ""], ""), [0, 1]);
    }
}
