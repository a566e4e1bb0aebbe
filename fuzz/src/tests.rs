//! Every target over its corpus, and over some mutations of it by a fixed seed; and that nothing is left out.

use crate::mutate::{Dice, mutated};
use crate::{TARGETS, corpus};

const MUTATIONS: usize = 300;
/// All corpora together: they are for the repository's readers too.
const CORPORA_BYTES_MAX: usize = 300 << 10;

#[test]
fn every_target_takes_its_corpus_and_mutations_of_it() {
    for target in TARGETS {
        let inputs = corpus::load(target).unwrap_or_else(|error| panic!("{}: {error}", target.name));
        for (name, input) in &inputs {
            println!("{}: {name}", target.name);
            (target.run)(input);
        }
        let inputs: Vec<Vec<u8>> = inputs.into_iter().map(|(_, input)| input).collect();
        let mut dice = Dice::new(1);
        for number in 0..MUTATIONS {
            let mut input = mutated(&inputs, &mut dice);
            if number % 2 == 0 {
                (target.repair)(&mut input);
            }
            println!("{}: mutation {number}", target.name);
            (target.run)(&input);
        }
    }
}

#[test]
fn every_target_has_a_small_corpus_of_its_own() {
    let mut bytes = 0;
    for target in TARGETS {
        let inputs = corpus::load(target).unwrap_or_else(|error| panic!("{}: {error}", target.name));
        let samples = (target.samples)().len();
        assert!(samples > 0 && inputs.len() > samples, "{} begins with nothing", target.name);
        let kept = inputs.iter().filter(|(name, _)| corpus::is_kept(name));
        bytes += kept.map(|(_, input)| input.len()).sum::<usize>();
    }
    assert!(bytes <= CORPORA_BYTES_MAX, "{bytes} bytes of corpora");
}

#[test]
fn every_target_is_a_program_of_cargo_fuzz() {
    let manifest = include_str!("../Cargo.toml");
    let programs = manifest.split("[[bin]]").skip(1);
    let mut names: Vec<&str> = programs.filter_map(|program| program.split('"').nth(1)).collect();
    let mut targets: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    names.sort_unstable();
    targets.sort_unstable();
    assert_eq!(names, targets);
    for name in names {
        let folder = corpus::folder().with_file_name("fuzz_targets");
        let program = corpus::read(&folder.join(format!("{name}.rs"))).expect("it has a file");
        let text = String::from_utf8(program).expect("text");
        assert!(text.contains(&format!("fuzz_program!(\"{name}\")")), "{name} runs another target");
    }
}

#[test]
fn repaired_samples_are_what_they_were() {
    // Else the repair would break what it should let through, and nothing behind a checksum were reached.
    for target in TARGETS {
        for sample in (target.samples)() {
            let mut repaired = sample.clone();
            (target.repair)(&mut repaired);
            assert!(repaired == sample, "{}: a sound input is changed by its repair", target.name);
        }
    }
}

#[test]
fn a_decoder_that_panics_is_found() {
    // The canary: a decoder that trusts a length byte.
    let naive = |bytes: &[u8]| bytes.first().is_none_or(|len| bytes[1..=usize::from(*len)].len() < 300);
    let inputs = vec![vec![3, 1, 2, 3]];
    let mut dice = Dice::new(1);
    let found = (0..MUTATIONS).any(|_| {
        let input = mutated(&inputs, &mut dice);
        std::panic::catch_unwind(|| naive(&input)).is_err()
    });
    assert!(found);
}
