//! `docs/schemas.md` is true: its commands are run, from top to bottom in one folder, and print what the page shows.

mod common;

use std::path::Path;
use std::process::Command;

use common::is_here;

/// The commands of a page's `console` blocks, each with what it prints.
fn commands(page: &str) -> Vec<(String, String)> {
    let mut commands: Vec<(String, String)> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match (line, line.strip_prefix("$ ")) {
            ("```console" | "```", _) => inside = line == "```console",
            (_, Some(command)) if inside => commands.push((command.to_owned(), String::new())),
            _ if inside => {
                let (_, printed) = commands.last_mut().expect("a block begins with a command");
                printed.push_str(line);
                printed.push('\n');
            }
            _ => {}
        }
    }
    commands
}

#[test]
fn the_page_on_schemas_shows_what_happens() {
    if !is_here("sqlite3", &["-version"]) || !is_here("bash", &["--version"]) {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let page = std::fs::read_to_string("docs/schemas.md").unwrap();
    let zvon = Path::new(env!("CARGO_BIN_EXE_zvon")).parent().unwrap();
    let mut path = vec![zvon.to_owned()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let path = std::env::join_paths(path).unwrap();
    let commands = commands(&page);
    assert!(commands.len() > 30, "the page has commands");
    for (command, shown) in commands {
        let mut bash = Command::new("bash");
        bash.args(["-c", &format!("exec 2>&1; {command}")]).current_dir(home.path()).env("PATH", &path);
        bash.env_remove("ZVON_DB").env_remove("ZVON_REMOTE").env("COLUMNS", "120");
        let output = bash.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), shown, "{command}");
    }
}
