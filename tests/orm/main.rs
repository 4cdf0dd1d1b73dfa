//! An application made with SQLAlchemy and Alembic, which knows nothing of zvon, on two replicas (`app.py` is it).

use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

/// The tables of the application; Alembic's own, which says how far this file's schema is, stays out.
const TABLES: [&str; 5] = ["user", "profile", "tag", "post", "post_tag"];

/// The Python that has the packages of `requirements.txt`: `.ci/run` makes it. Where tests are run for a release, it has to be there.
fn python() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cache")));
    let python = cache.map(|cache| cache.join("zvon-ci/orm/bin/python")).filter(|python| python.exists());
    assert!(
        python.is_some() || std::env::var_os("CI").is_none(),
        "the Python environment that .ci/run makes is missing"
    );
    if python.is_none() {
        eprintln!("skipped: no Python environment with SQLAlchemy and Alembic; .ci/run makes it");
    }
    python
}

struct Blog {
    python: PathBuf,
    folder: TempDir,
}

impl Blog {
    /// The application does something with a database.
    fn app(&self, command: &str, database: &str, arguments: &[&str]) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/orm/app.py");
        let mut python = Command::new(&self.python);
        python.arg("-B").arg(script).arg(command).arg(database).args(arguments);
        self.run(&mut python)
    }

    fn zvon(&self, arguments: &[&str]) -> String {
        self.run(Command::new(env!("CARGO_BIN_EXE_zvon")).args(arguments))
    }

    fn run(&self, command: &mut Command) -> String {
        for name in ["ZVON_DB", "ZVON_REMOTE"] {
            command.env_remove(name);
        }
        let output = command.current_dir(self.folder.path()).output().unwrap();
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{command:?}: {out}\n{error}");
        out.into_owned()
    }

    fn sync(&self, database: &str) -> Value {
        serde_json::from_str(&self.zvon(&["--db", database, "--json", "sync"])).unwrap()
    }

    fn held(&self, database: &str) -> Vec<String> {
        let held: Value = serde_json::from_str(&self.zvon(&["--db", database, "--json", "held"])).unwrap();
        let rows = held["rows"].as_array().unwrap().iter();
        rows.map(|row| format!("{} {}", row["table"].as_str().unwrap(), row["reason"].as_str().unwrap())).collect()
    }

    /// Syncs both sides; both are sound and show the same through the application's relations, which is returned.
    fn alike(&self) -> Value {
        for database in ["a.db", "b.db", "a.db", "b.db"] {
            self.sync(database);
        }
        let [a, b] = ["a.db", "b.db"].map(|database| {
            self.zvon(&["--db", database, "verify", "--remote"]);
            let conn = Connection::open(self.folder.path().join(database)).unwrap();
            let check = "SELECT (SELECT count(*) FROM pragma_foreign_key_check), (SELECT group_concat(integrity_check) FROM pragma_integrity_check)";
            let sound: (u64, String) = conn.query_row(check, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            assert_eq!(sound, (0, "ok".to_owned()), "{database}");
            serde_json::from_str::<Value>(&self.app("read", database, &[])).unwrap()
        });
        assert_eq!(a, b, "\n{a:#}\n{b:#}");
        a
    }
}

/// One user of what the application reads.
fn user<'v>(read: &'v Value, who: &str) -> &'v Value {
    let email = format!("{who}@example.org");
    read["users"].as_array().unwrap().iter().find(|user| user["email"] == *email).unwrap_or(&Value::Null)
}

fn tags(post: &Value) -> Vec<&str> {
    post["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap()).collect()
}

#[test]
fn an_application_with_an_orm_runs_unchanged_on_two_replicas() {
    let Some(python) = python() else { return };
    let blog = Blog { python, folder: TempDir::new().unwrap() };
    blog.app("migrate", "a.db", &["1"]);
    blog.app("found", "a.db", &[]);
    blog.zvon(&["init", "a.db", "--remote", "remote"]);
    blog.zvon(&[["--db", "a.db", "track"].as_slice(), &TABLES].concat());
    blog.sync("a.db");
    blog.zvon(&["clone", "remote", "b.db"]);
    blog.app("stamp", "b.db", &["1"]);
    let read = blog.alike();
    assert_eq!(tags(&user(&read, "admin")["posts"][0]), ["news", "sql"]);

    both_write(&blog);
    both_edit(&blog);
    one_side_has_a_new_column(&blog);
    both_rebuild(&blog);
}

/// Both give the same numbers to other rows, and one word to two tags.
fn both_write(blog: &Blog) {
    blog.app("write", "a.db", &["ann"]);
    blog.app("write", "b.db", &["bob"]);
    let read = blog.alike();
    assert_eq!(read["users"].as_array().unwrap().len(), 5);
    assert_eq!(read["tags"], serde_json::json!(["both", "by ann", "by bob", "news", "sql"]));
    assert_eq!(tags(&user(&read, "admin")["posts"][0]), ["by ann", "by bob", "news", "sql"]);
    for who in ["ann", "bob"] {
        let user = user(&read, who);
        assert_eq!((&user["bio"], &user["invited by"]), (&format!("{who}'s life").into(), &"admin@example.org".into()));
        assert_eq!(
            (&user["posts"][0]["price"], &user["posts"][0]["written"]),
            (&"12.30".into(), &"2026-02-03T04:05:06.000789".into())
        );
        assert_eq!(user["posts"][1]["reply to"], serde_json::json!([format!("guest-of-{who}@example.org"), "re"]));
    }
    // Ann's is the older claim to the word; Bob's tag, and the link to it, wait.
    assert_eq!(tags(&user(&read, "ann")["posts"][0]), ["both", "by ann"]);
    assert_eq!(tags(&user(&read, "bob")["posts"][0]), ["by bob"]);
    for database in ["a.db", "b.db"] {
        assert_eq!(blog.held(database), ["tag unique", "post_tag foreign key"]);
    }
    blog.app("rename", "b.db", &["both", "ann's word"]);
    let read = blog.alike();
    assert_eq!(tags(&user(&read, "ann")["posts"][0]), ["ann's word", "by ann"]);
    assert_eq!(tags(&user(&read, "bob")["posts"][0]), ["both", "by bob"]);
    assert!(blog.held("a.db").is_empty() && blog.held("b.db").is_empty());
}

/// Each edits, and deletes with all that hangs on it, what the other wrote.
fn both_edit(blog: &Blog) {
    blog.app("edit", "a.db", &["ann"]);
    blog.app("edit", "b.db", &["bob"]);
    let read = blog.alike();
    let (ann, bob) = (user(&read, "ann"), user(&read, "bob"));
    assert_eq!((&bob["posts"][0]["title"], &bob["posts"][0]["price"]), (&"First of Robert".into(), &"99.99".into()));
    assert_eq!((&ann["bio"], &ann["posts"][1]["draft"]), (&"as bob tells it".into(), &true.into()));
    assert!(user(&read, "guest-of-bob").is_null(), "{read:#}");
    assert_eq!(bob["posts"].as_array().unwrap().len(), 1, "the reply to the guest's reply went with the guest");
    assert_eq!(tags(&user(&read, "admin")["posts"][0]), [] as [&str; 0]);
}

/// A column that one side has and the other does not know yet.
fn one_side_has_a_new_column(blog: &Blog) {
    blog.app("migrate", "a.db", &["2"]);
    blog.app("nickname", "a.db", &["ann", "annie"]);
    blog.sync("a.db");
    assert_eq!(blog.sync("b.db")["held"], 0);
    blog.app("rename", "b.db", &["by bob", "of bob"]);
    blog.sync("b.db");
    blog.app("migrate", "b.db", &["2"]);
    blog.app("nickname", "b.db", &["bob", "bobby"]);
    let read = blog.alike();
    let nicknames = ["admin", "ann", "bob"].map(|who| &user(&read, who)["nickname"]);
    assert_eq!(nicknames, ["", "annie", "bobby"]);
    assert!(read["tags"].as_array().unwrap().contains(&"of bob".into()));
}

/// Tables made anew behind zvon's back, triggers gone, and written before zvon looks again.
fn both_rebuild(blog: &Blog) {
    blog.app("rename", "b.db", &["both", "bob's word"]);
    blog.alike();
    for (database, who) in [("a.db", "cid"), ("b.db", "dora")] {
        blog.app("migrate", database, &["3"]);
        blog.app("write", database, &[who]);
        blog.app("nickname", database, &[who, "new"]);
    }
    let read = blog.alike();
    assert_eq!(read["users"].as_array().unwrap().len(), 8);
    for who in ["cid", "dora"] {
        assert_eq!(
            (&user(&read, who)["nickname"], user(&read, who)["posts"].as_array().unwrap().len()),
            (&"new".into(), 2)
        );
        assert_eq!(
            user(&read, who)["posts"][1]["reply to"],
            serde_json::json!([format!("guest-of-{who}@example.org"), "re"])
        );
    }
    assert_eq!(tags(&user(&read, "bob")["posts"][0]), ["bob's word", "of bob"]);
    assert_eq!(tags(&user(&read, "cid")["posts"][0]), ["both", "by cid"]);
    // Capture is back: what is written now is found without a comparison.
    blog.app("rename", "a.db", &["by cid", "of cid"]);
    blog.app("nickname", "b.db", &["ann", "nan"]);
    let read = blog.alike();
    assert_eq!(user(&read, "ann")["nickname"], "nan");
    assert!(read["tags"].as_array().unwrap().contains(&"of cid".into()));
}
