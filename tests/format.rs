//! The format is what `docs/format.md` says: a reader written from that page alone, in another language, reads the golden files.

use std::path::Path;
use std::process::{Command, Output};

/// Runs the reader on a version's golden files; `None` where there is no Python to run it.
fn read_golden(version: &str) -> Option<Output> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let folder = tests.join("data/golden").join(version);
    match Command::new("python3").arg(tests.join("zvon_reader.py")).arg(folder).output() {
        Ok(output) => Some(output),
        Err(error) if std::env::var_os("CI").is_none() => {
            println!("SKIPPED: the format's reader needs python3 ({error})");
            None
        }
        Err(error) => panic!("the format's reader needs python3: {error}"),
    }
}

#[test]
fn a_reader_written_from_the_documentation_reads_the_golden_files() {
    let Some(output) = read_golden("v1") else { return };
    let complaints = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{complaints}");

    let tables: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected: serde_json::Value = serde_json::from_str(include_str!("data/golden/v1/expected.json")).unwrap();
    assert_eq!(tables, expected);

    let refused: Vec<&str> = complaints.lines().map(|line| &line[..18]).collect();
    let bad = ["019b76da-a8f0-7000", "019b76da-a8f1-7000", "019b76da-a8f2-7000", "019b76da-a8f3-7000"];
    assert_eq!(refused, bad, "bad files are refused, strangers' files are ignored: {complaints}");
}
