//! The examples do what they say.

#[path = "../examples/two_replicas.rs"]
#[allow(dead_code, reason = "its `main` is for `cargo run`")]
mod two_replicas;

#[tokio::test]
async fn two_replicas_end_with_the_same_rows() {
    let dir = tempfile::tempdir().unwrap();
    let story = two_replicas::story(dir.path()).await.unwrap();
    for name in ["laptop", "phone"] {
        assert!(story.contains(&format!("{name}: n1 Groceries: bread, milk, 0 problems")), "{story}");
    }
}
