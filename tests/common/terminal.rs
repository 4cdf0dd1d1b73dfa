//! A terminal for a command: somebody sits there, who answers what is asked.

use std::process::Command;

/// Python has a terminal to give. It waits for each text before it types, and where what is typed is to be hidden, for that too.
const SCRIPT: &str = r#"
import json, os, pty, sys, termios, time
answers = json.loads(sys.argv[1])
pid, terminal = pty.fork()
if pid == 0: os.execv(sys.argv[2], sys.argv[2:])
shown, told = b"", 0
while True:
    try: part = os.read(terminal, 4096)
    except OSError: break
    if not part: break
    shown += part
    while answers and answers[0][0].encode() in shown[told:]:
        text, hidden, answer = answers.pop(0)
        told = shown.index(text.encode(), told) + len(text)
        while hidden and termios.tcgetattr(terminal)[3] & termios.ECHO: time.sleep(0.001)
        os.write(terminal, answer.encode())
sys.stdout.buffer.write(shown)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;

/// Ctrl-C, as a terminal sends it.
pub const CTRL_C: &str = "\u{3}";

/// What is waited for, whether what is typed then is not to be shown, and what is typed.
pub type Answer<'a> = (&'a str, bool, &'a str);

/// What is typed where a secret is asked for.
pub fn hidden<'a>(question: &'a str, answer: &'a str) -> Answer<'a> {
    (question, true, answer)
}

/// What is typed once a text is shown.
pub fn once<'a>(text: &'a str, typed: &'a str) -> Answer<'a> {
    (text, false, typed)
}

/// Runs a command on a terminal, and types each answer when its time has come: what was shown, and the exit code.
/// Nothing where Python is missing; in a release's run it has to be there.
pub fn converse(command: &Command, answers: &[Answer<'_>]) -> Option<(String, i32)> {
    let answers = serde_json::to_string(answers).unwrap();
    let mut python = Command::new("python3");
    python.args(["-c", SCRIPT, &answers]).arg(command.get_program()).args(command.get_args()).env("TERM", "xterm");
    if let Some(folder) = command.get_current_dir() {
        python.current_dir(folder);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => python.env(name, value),
            None => python.env_remove(name),
        };
    }
    match python.output() {
        Ok(output) => Some((String::from_utf8(output.stdout).unwrap(), output.status.code().unwrap_or(-1))),
        Err(error) if std::env::var_os("CI").is_none() => {
            println!("SKIPPED: a terminal needs python3 ({error})");
            None
        }
        Err(error) => panic!("a terminal needs python3: {error}"),
    }
}
