//! Mutations that decoders of lengths, varints and lists get wrong.

use fastrand::Rng;

/// Values at which lengths and numbers go wrong.
const EDGES: [u64; 10] = [
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x4000,
    0xFFFF,
    0x7FFF_FFFF,
    0xFFFF_FFFF,
    u64::MAX,
];

/// A member of the corpus, changed in one to four places, at most `max` bytes long.
pub(crate) fn mutate(random: &mut Rng, corpus: &[Vec<u8>], max: usize) -> Vec<u8> {
    let mut input = corpus[random.usize(..corpus.len())].clone();
    for _ in 0..random.usize(1..=4) {
        let at = random.usize(..=input.len());
        match random.u8(..8) {
            0 => flip(random, &mut input),
            1 => insert(&mut input, at, &[random.u8(..)]),
            2 => input.truncate(at),
            3 => remove(random, &mut input),
            4 => overwrite(random, &mut input, at),
            5 => insert(&mut input, at, &varint(EDGES[random.usize(..EDGES.len())])),
            6 => repeat(random, &mut input),
            _ => {
                let other = &corpus[random.usize(..corpus.len())];
                splice(random, &mut input, other);
            }
        }
    }
    input.truncate(max);
    input
}

fn flip(random: &mut Rng, input: &mut [u8]) {
    if !input.is_empty() {
        let at = random.usize(..input.len());
        input[at] ^= 1 << random.u8(..8);
    }
}

fn insert(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    input.splice(at..at, bytes.iter().copied());
}

fn range(random: &mut Rng, len: usize) -> std::ops::Range<usize> {
    let start = random.usize(..=len);
    start..random.usize(start..=len.min(start + 32))
}

fn remove(random: &mut Rng, input: &mut Vec<u8>) {
    let range = range(random, input.len());
    input.drain(range);
}

/// Writes an edge value over what is there, 1 to 8 bytes little-endian.
fn overwrite(random: &mut Rng, input: &mut [u8], at: usize) {
    let edge = EDGES[random.usize(..EDGES.len())].to_le_bytes();
    let len = (1 << random.u8(..4)).min(input.len() - at);
    input[at..at + len].copy_from_slice(&edge[..len]);
}

fn repeat(random: &mut Rng, input: &mut Vec<u8>) {
    let range = range(random, input.len());
    let piece = input[range.clone()].to_vec();
    insert(input, range.end, &piece);
}

/// Replaces the end with the end of another.
fn splice(random: &mut Rng, input: &mut Vec<u8>, other: &[u8]) {
    input.truncate(random.usize(..=input.len()));
    input.extend_from_slice(&other[random.usize(..=other.len())..]);
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}
