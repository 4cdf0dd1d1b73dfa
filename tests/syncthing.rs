//! A folder that a real pair of Syncthings carries between two machines, both of which watch: late, out of order, and with one
//! side stopped in the middle.

mod common;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::watching::Watching;
use common::*;
use tempfile::TempDir;
use tokio::time::timeout;
use zvon::{CompactOptions, CompactReport, Remote, Replica, Settings, WatchOptions};

const NOTES: &str = "CREATE TABLE note (id TEXT PRIMARY KEY, title TEXT, body TEXT)";
/// How long the two may take to agree. They take a few seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// A Syncthing with a home and a folder of its own, which talks to one other on this machine and to nobody else.
struct Syncthing {
    home: PathBuf,
    folder: PathBuf,
    device: String,
    port: u16,
    process: Option<Child>,
}

impl Syncthing {
    fn generate(dir: &Path, name: &str) -> Self {
        let (home, folder) = (dir.join(format!("{name}-home")), dir.join(format!("{name}-folder")));
        // Without this folder Syncthing takes the place for a drive that is not mounted.
        fs::create_dir_all(folder.join(".stfolder")).unwrap();
        let output = quiet(&home).arg("generate").arg(format!("--home={}", home.display())).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let config = fs::read_to_string(home.join("config.xml")).unwrap();
        let device = between(&config, "<device id=\"", "\"").to_owned();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { home, folder, device, port, process: None }
    }

    /// Lets it know the other one, and nobody else: no discovery, no relays, no reports, no upgrades.
    fn meet(&self, other: &Self) {
        let generated = fs::read_to_string(self.home.join("config.xml")).unwrap();
        let version = between(&generated, "<configuration version=\"", "\"");
        let device = |of: &Self| {
            let Self { device, port, .. } = of;
            format!("<device id=\"{device}\" name=\"{port}\"><address>tcp://127.0.0.1:{port}</address></device>")
        };
        let config = format!(
            "<configuration version=\"{version}\">
                <folder id=\"zvon\" label=\"zvon\" path=\"{folder}\" type=\"sendreceive\" rescanIntervalS=\"10\"
                        fsWatcherEnabled=\"true\" fsWatcherDelayS=\"1\">
                    <device id=\"{own}\"></device><device id=\"{peer}\"></device>
                </folder>
                {own_device}{peer_device}
                <gui enabled=\"false\"></gui>
                <options>
                    <listenAddress>tcp://127.0.0.1:{port}</listenAddress>
                    <globalAnnounceEnabled>false</globalAnnounceEnabled>
                    <localAnnounceEnabled>false</localAnnounceEnabled>
                    <relaysEnabled>false</relaysEnabled>
                    <natEnabled>false</natEnabled>
                    <stunKeepaliveStartS>0</stunKeepaliveStartS>
                    <urAccepted>-1</urAccepted>
                    <crashReportingEnabled>false</crashReportingEnabled>
                    <autoUpgradeIntervalH>0</autoUpgradeIntervalH>
                    <reconnectionIntervalS>1</reconnectionIntervalS>
                    <startBrowser>false</startBrowser>
                    <setLowPriority>false</setLowPriority>
                </options>
            </configuration>",
            folder = self.folder.display(),
            own = self.device,
            peer = other.device,
            own_device = device(self),
            peer_device = device(other),
            port = self.port,
        );
        fs::write(self.home.join("config.xml"), config).unwrap();
    }

    fn start(&mut self) {
        let mut command = quiet(&self.home);
        command.args(["serve", "--no-browser", "--no-restart"]).arg(format!("--home={}", self.home.display()));
        // One process instead of two: the one that is killed is the one that holds everything.
        command.env("STMONITORED", "yes");
        let log = fs::File::options().create(true).append(true).open(self.log()).unwrap();
        self.process = Some(command.stdout(log).stderr(Stdio::null()).spawn().unwrap());
    }

    fn log(&self) -> PathBuf {
        self.home.join("out.log")
    }

    /// Ends it wherever it is.
    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended on its own, which what waits for it tells.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    fn remote(&self) -> Remote {
        remote(self.folder.to_str().unwrap())
    }

    /// The names below the folder that Syncthing gave to copies of files that it took for changed on both sides.
    fn conflicting_copies(&self) -> Vec<PathBuf> {
        let folders = ["changes", "packs", "identity", "layout", "schemas"].map(|name| self.folder.join(name));
        let entries =
            folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().map(|e| e.unwrap().path());
        entries.filter(|path| path.to_string_lossy().contains(".sync-conflict-")).collect()
    }
}

impl Drop for Syncthing {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A Syncthing that neither upgrades itself nor looks for anything outside its home.
fn quiet(home: &Path) -> Command {
    let mut command = Command::new("syncthing");
    command.env("HOME", home.parent().unwrap()).env("STNOUPGRADE", "1").env("STNODEFAULTFOLDER", "1");
    command
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    text.split_once(before).unwrap().1.split_once(after).unwrap().0
}

/// One machine: a database, its Syncthing, and a watch.
struct Machine {
    syncthing: Syncthing,
    replica: Replica,
    watch: Option<Watching>,
}

impl Machine {
    async fn new(dir: &TempDir, name: &str) -> Self {
        let mut settings = Settings::default();
        // Far shorter than it may be in a folder: removals are to arrive before the packs that stand for what they remove.
        settings.compaction_grace = Some(Duration::ZERO);
        let replica = Replica::init(dir.path().join(format!("{name}.db"))).unwrap().with_settings(settings);
        run(&replica, NOTES);
        replica.track_all(&keyed()).await.unwrap();
        Self { syncthing: Syncthing::generate(dir.path(), name), replica, watch: None }
    }

    fn start(&mut self) {
        self.syncthing.start();
        self.watch = Some(Watching::with(&self.replica, &self.syncthing.remote(), WatchOptions::default()));
    }

    /// Its Syncthing dies with whatever it was about to send or receive; the watch ends well.
    async fn stop(&mut self) {
        self.syncthing.kill();
        self.watch.take().unwrap().stop().await;
    }

    fn write(&self, name: &str, rows: std::ops::Range<u32>) {
        for n in rows {
            run(&self.replica, &format!("INSERT INTO note VALUES ('{name}-{n}', 'by {name}', 'x')"));
            run(&self.replica, &format!("UPDATE note SET body = '{name} {n}' WHERE id = 'both'"));
        }
    }

    async fn compact(&self) -> CompactReport {
        self.replica.compact(&self.syncthing.remote(), &CompactOptions::default()).await.unwrap()
    }

    /// What there is here, for a test that fails.
    async fn standing(&self) -> String {
        let files = |name: &str| fs::read_dir(self.syncthing.folder.join(name)).map_or(0, Iterator::count);
        let (rows, files) = (self.notes().len(), ["changes", "packs", "identity"].map(files));
        let log = fs::read_to_string(self.syncthing.log()).unwrap_or_default();
        let status = self.replica.status().await.unwrap();
        format!("{rows} rows, {files:?} changes, packs, identities\n{status:?}\n{log}")
    }

    fn notes(&self) -> Vec<String> {
        table(&self.replica, "note")
    }
}

/// Waits until both show the same, so many rows of it, hearing of every sync of either; after each of which, where that is
/// asked for, both compact at once, wherever their syncs and Syncthings are.
async fn agree(a: &mut Machine, b: &mut Machine, rows: usize, compacting: bool) {
    let agreement = async {
        while a.notes().len() != rows || a.notes() != b.notes() {
            let (one, two) = (a.watch.as_mut().unwrap(), b.watch.as_mut().unwrap());
            tokio::select! {
                _ = one.event() => {}
                _ = two.event() => {}
            }
            if compacting {
                futures::join!(a.compact(), b.compact());
            }
        }
    };
    let agreed = timeout(PATIENCE, agreement).await;
    assert!(agreed.is_ok(), "they do not agree on {rows} rows:\n{}\n{}", a.standing().await, b.standing().await);
    for machine in [a, b] {
        // What was told before is not what is waited for next.
        while machine.watch.as_mut().unwrap().events.try_recv().is_ok() {}
    }
}

#[tokio::test]
async fn two_replicas_that_syncthing_joins_converge_though_one_side_stops_in_the_middle() {
    if !is_here("syncthing", &["--version"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (mut a, mut b) = (Machine::new(&dir, "a").await, Machine::new(&dir, "b").await);
    a.syncthing.meet(&b.syncthing);
    b.syncthing.meet(&a.syncthing);
    run(&a.replica, "INSERT INTO note VALUES ('both', 'contended', '')");
    a.start();
    b.start();
    agree(&mut a, &mut b, 1, false).await;

    // Both write at once; of one of them everything stops while the other's files are on their way.
    a.write("a", 0..20);
    b.write("b", 0..20);
    let first_of_a = async {
        while !b.notes().iter().any(|row| row.contains("by a")) {
            b.watch.as_mut().unwrap().event().await;
        }
    };
    timeout(PATIENCE, first_of_a).await.expect("something of the other side arrives");
    b.stop().await;
    // One compacts, twice, so that it also removes, while the other still lacks what that packs.
    sync(&a.replica, &a.syncthing.remote()).await;
    let (packed, removed) = (a.compact().await, a.compact().await);
    assert!(packed.written_packs > 0 && removed.removed_files > 0, "{packed:?} {removed:?}");
    a.write("a", 20..40);
    b.write("b", 20..40);
    run(&b.replica, "DELETE FROM note WHERE id = 'b-0'");
    b.start();
    agree(&mut a, &mut b, 1 + 40 + 39, true).await;

    for machine in [&mut a, &mut b] {
        machine.watch.take().unwrap().stop().await;
        let status = machine.replica.status().await.unwrap();
        assert_eq!((status.journal, status.held, status.remotes[0].rejected.len()), (0, 0, 0), "{status:?}");
        assert_eq!(machine.syncthing.conflicting_copies(), [] as [PathBuf; 0]);
    }
    // What each folder lacks by now is on its way, or comes from its own replica.
    for machine in [&a, &b] {
        sync(&machine.replica, &machine.syncthing.remote()).await;
        assert_verified(&machine.replica, &machine.syncthing.remote()).await;
    }
    assert_eq!(a.notes(), b.notes());
}
