//! The smoke run: a bounded number of mutated inputs for one target, on stable Rust.
//!
//! It knows nothing of coverage, which is libFuzzer's. The same seed gives the same inputs, so a
//! failure is found again.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::Target;

/// Longest input, in bytes.
const LONGEST_INPUT: usize = 8 * 1024;

/// Mutations of one input, at most.
const MOST_MUTATIONS: usize = 6;

/// Pieces that the formats give a meaning to.
const PIECES: [&[u8]; 32] = [
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\r\n",
    b"\n",
    b"\0",
    b"<",
    b">",
    b"@",
    b"--",
    b"null",
    b"-1",
    b"9223372036854775807",
    b"1e999",
    b"\\ud83d",
    b"\\uffff",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xf0\x9f\x92\xa9",
    b"\"id\":",
    b"\"data\":",
    b"\"headers\":",
    b"\"date\":",
    b"CRM:0001001",
    b"ada@ours.example",
    b"team@kites.example",
    b"\x1f\x8b\x08",
];

/// An input for which a target panicked.
#[derive(Debug)]
pub struct Failure {
    /// Which input of the run, from 0.
    pub iteration: usize,
    /// The input.
    pub input: Vec<u8>,
}

/// Runs a target on each input of `corpus` and then on mutated ones, `iterations` in all.
///
/// # Errors
/// [`Failure`]: the first input for which it panicked. The panic is printed.
pub fn run(
    target: Target,
    corpus: &[Vec<u8>],
    seed: u64,
    iterations: usize,
) -> Result<(), Failure> {
    let mut random = StdRng::seed_from_u64(seed);
    for iteration in 0..iterations {
        let input = match corpus.get(iteration) {
            Some(input) => input.clone(),
            None => mutated(corpus, &mut random),
        };
        if catch_unwind(AssertUnwindSafe(|| (target.body)(&input))).is_err() {
            return Err(Failure { iteration, input });
        }
    }
    Ok(())
}

/// One input of the corpus, or none, with some mutations.
fn mutated(corpus: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    let mut input = match corpus.choose(random) {
        Some(input) if random.random_ratio(19, 20) => input.clone(),
        _ => Vec::new(),
    };
    for _ in 0..random.random_range(1..=MOST_MUTATIONS) {
        let at = random.random_range(0..=input.len());
        let end = random.random_range(at..=input.len().min(at + 64));
        match random.random_range(0..6) {
            0 => drop(input.splice(at..end, [])),
            1 => drop(input.splice(at..at, [random.random::<u8>()])),
            2 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << random.random_range(0..8);
                }
            }
            3 => {
                if let Some(piece) = PIECES.choose(random) {
                    drop(input.splice(at..end, piece.iter().copied()));
                }
            }
            4 => {
                let part = input.get(at..end).unwrap_or_default().to_vec();
                let times = random.random_range(1..=64);
                drop(input.splice(at..at, part.repeat(times)));
            }
            _ => {
                if let Some(other) = corpus.choose(random) {
                    let from = random.random_range(0..=other.len());
                    let tail = other.get(from..).unwrap_or_default();
                    drop(input.splice(at.., tail.iter().copied()));
                }
            }
        }
    }
    input.truncate(LONGEST_INPUT);
    input
}
