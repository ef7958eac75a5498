//! `fuzz-smoke [--seed N] [--iterations N] [--target NAME]`: runs the fuzz targets for a while, on
//! stable Rust.
//!
//! Prints the seed. An input for which a target panics goes to `fuzz/artifacts/NAME/`, where `cargo
//! fuzz` puts its own, and the exit status is 1.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use fuzz_targets::smoke::{self, Failure};
use fuzz_targets::{TARGETS, Target};

/// Inputs for each target, where the command line says nothing.
const ITERATIONS: usize = 10_000;

struct Options {
    seed: u64,
    iterations: usize,
    target: Option<String>,
}

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("fuzz-smoke: {problem}");
            return ExitCode::from(2);
        }
    };
    println!("seed {}", options.seed);
    let wanted = |target: &&Target| match &options.target {
        Some(name) => target.name == name,
        None => true,
    };
    let mut failed = false;
    for target in TARGETS.iter().filter(wanted) {
        let inputs = match corpus(target.name) {
            Ok(inputs) => inputs,
            Err(error) => {
                eprintln!(
                    "fuzz-smoke: the corpus of {} cannot be read: {error}",
                    target.name
                );
                return ExitCode::from(2);
            }
        };
        let began = Instant::now();
        match smoke::run(*target, &inputs, options.seed, options.iterations) {
            Ok(()) => println!(
                "{}: {} inputs in {} ms, {} of them from the corpus",
                target.name,
                options.iterations,
                began.elapsed().as_millis(),
                inputs.len().min(options.iterations),
            ),
            Err(failure) => {
                failed = true;
                report(target.name, options.seed, &failure);
            }
        }
    }
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        seed: rand::random(),
        iterations: ITERATIONS,
        target: None,
    };
    while let Some(name) = arguments.next() {
        let value = arguments.next();
        let value = value.ok_or_else(|| format!("{name} takes a value"))?;
        let number = || value.parse().map_err(|_| format!("{name} takes a number"));
        match name.as_str() {
            "--seed" => options.seed = number()?,
            "--iterations" => {
                options.iterations = usize::try_from(number()?)
                    .map_err(|_| "--iterations is too large".to_owned())?;
            }
            "--target" if TARGETS.iter().any(|target| target.name == value) => {
                options.target = Some(value);
            }
            "--target" => return Err(format!("there is no target {value}")),
            _ => return Err(format!("there is no option {name}")),
        }
    }
    Ok(options)
}

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The inputs of a target's folder, in the order of their names, so that one seed means one run.
fn corpus(name: &str) -> io::Result<Vec<Vec<u8>>> {
    let entries = std::fs::read_dir(fuzz().join("corpus").join(name))?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    paths.iter().map(std::fs::read).collect()
}

fn report(name: &str, seed: u64, failure: &Failure) {
    let folder = fuzz().join("artifacts").join(name);
    let file = folder.join(format!("smoke-{seed}-{}", failure.iteration));
    let kept =
        std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&file, &failure.input));
    let place = match kept {
        Ok(()) => format!("fuzz/artifacts/{name}/smoke-{seed}-{}", failure.iteration),
        Err(error) => format!("nowhere, because {error}"),
    };
    eprintln!(
        "{name}: panicked at input {} of seed {seed}; the input is kept in {place}",
        failure.iteration
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_a_corpus_and_every_corpus_a_target() {
        let mut folders: Vec<String> = std::fs::read_dir(fuzz().join("corpus"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let mut names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        folders.sort();
        names.sort_unstable();
        assert_eq!(folders, names);
        for name in names {
            assert!(corpus(name).unwrap().len() >= 3, "{name}");
            let binary = fuzz().join("fuzz_targets").join(format!("{name}.rs"));
            assert!(binary.is_file(), "{name} is no target of cargo-fuzz");
        }
    }

    #[test]
    fn a_target_that_panics_fails_the_run_and_the_same_seed_finds_the_same_input() {
        let target = Target {
            name: "planted",
            body: |input| assert!(!input.contains(&b'}'), "planted"),
        };
        let corpus = [b"[1, 2]".to_vec()];
        let found = || smoke::run(target, &corpus, 7, 10_000).unwrap_err();
        let (first, second) = (found(), found());
        assert!(first.input.contains(&b'}'));
        assert_eq!(
            (first.iteration, first.input),
            (second.iteration, second.input)
        );
    }
}
