//! What Dataverse answers to a `$batch`, whatever it is.
//!
//! Input: one byte, how many operations were asked; a line, the content type; the rest is the body.

use mailverse::clients::dataverse::batch::decode;

/// Decodes the answer, and its first half.
///
/// # Panics
/// A promise about it does not hold.
pub fn run(input: &[u8]) {
    let Some((operations, rest)) = input.split_first() else {
        return;
    };
    let operations = usize::from(*operations);
    let mut halves = rest.splitn(2, |byte| *byte == b'\n');
    let content_type = String::from_utf8_lossy(halves.next().unwrap_or_default());
    let body = halves.next().unwrap_or_default();
    if let Ok(answers) = decode(&content_type, body, operations) {
        assert_eq!(answers.len(), operations, "one entry for each operation");
        for parts in &answers {
            assert!(!parts.is_empty(), "an operation without an answer");
            for part in parts {
                assert!(part.body.len() <= body.len());
                assert_eq!(part.body.trim_ascii(), part.body);
            }
        }
        // An answer that was cut off after some line says the same or nothing.
        let half = body.split_at(body.len() / 2).0;
        let lines = half
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        if let Ok(fewer) = decode(&content_type, half.split_at(lines).0, operations) {
            assert_eq!(fewer, answers, "half an answer says something else");
        }
    }
}
