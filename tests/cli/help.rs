//! Help is text that is ours: pinned, so that every change of it is seen.

use crate::place::Place;

const COMMANDS: &[&str] = &[
    "init",
    "track",
    "untrack",
    "alter",
    "sync",
    "clone",
    "compact",
    "watch",
    "status",
    "log",
    "conflicts",
    "held",
    "verify",
    "repair",
    "key",
    "demo",
];

#[test]
fn help() {
    let ran = Place::new().run(["--help"]).ended(0);
    assert_eq!(ran.stderr, "");
    insta::assert_snapshot!(ran.stdout);
}

#[test]
fn help_of_each_command() {
    let place = Place::new();
    let pages = COMMANDS.iter().map(|command| {
        let page = place.run([*command, "--help"]).ended(0).stdout;
        // What is the same for all commands is pinned once, above.
        page.split("\nGlobal options:").next().unwrap().to_owned()
    });
    insta::assert_snapshot!(pages.collect::<Vec<_>>().join("\n----\n\n"));
}

#[test]
fn every_command_has_its_help_pinned() {
    let help = Place::new().run(["--help"]).ended(0).stdout;
    let listed = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let names: Vec<&str> = listed.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(names[..names.len() - 1], *COMMANDS);
}

#[test]
fn the_version_is_the_crates() {
    let ran = Place::new().run(["--version"]).ended(0);
    assert_eq!(ran.stdout, format!("zvon {}\n", env!("CARGO_PKG_VERSION")));
}
