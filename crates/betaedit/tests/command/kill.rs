//! `betaedit replay --session`, killed at any moment, continues where it stopped.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::setting::{betaedit, of_the_library};

fn command(session: &Path, out: &Path, method: &[&str]) -> Command {
    let mut command = betaedit();
    command.args(["replay", "--snapshot-every", "8", "--lambda1", "30", "--threshold", "0.1"]);
    command
        .arg("--stream")
        .arg(of_the_library("data/small.safetensors"))
        .arg("--session")
        .arg(session)
        .arg("--out")
        .arg(out);
    command.args(method).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Numbers in (0, 1), the same in every run (splitmix64).
struct Uniform(u64);

impl Uniform {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// After SIGKILL at random moments, until the run ends, the final update equals that of an uninterrupted run, bit for bit.
/// `BETAEDIT_KILLS` sets the number of kills, 50 by default.
#[test]
fn a_killed_run_ends_as_an_uninterrupted_one() {
    let asked = std::env::var("BETAEDIT_KILLS").ok().and_then(|kills| kills.parse().ok());
    let kills: usize = asked.unwrap_or(50);
    let methods: [&[&str]; 6] = [
        &["--method", "betaedit", "--refresh-every", "20"],
        &["--method", "alphaedit-h", "--batch", "3"],
        &["--method", "betaedit", "--refresh-rule", "continuous", "--refresh-weight", "1e-3", "--precision", "f32"],
        &["--method", "memit-h"],
        &["--method", "betaedit", "--consolidate-every", "25", "--refresh-every", "20"],
        &["--method", "memit", "--consolidate-every", "10", "--batch", "3", "--precision", "f32"],
    ];
    let folder = tempfile::tempdir().unwrap();
    let mut random = Uniform(77);
    let (mut killed, mut within) = (0, 0);
    for round in 0.. {
        let method = methods[round % methods.len()];
        let place = |name: &str| folder.path().join(format!("{name}-{round}"));
        let (whole, resumed) = (place("whole"), place("resumed"));
        let clock = Instant::now();
        assert!(command(&place("reference"), &whole, method).status().unwrap().success());
        let usual = clock.elapsed().as_secs_f64();
        loop {
            let mut child = command(&place("session"), &resumed, method).spawn().unwrap();
            std::thread::sleep(Duration::from_secs_f64(random.next() * 0.5 * usual));
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success());
                break;
            }
            // On Unix, SIGKILL.
            child.kill().unwrap();
            child.wait().unwrap();
            killed += 1;
            within += usize::from(place("session").join("journal").exists());
            if killed >= kills {
                assert!(command(&place("session"), &resumed, method).status().unwrap().success());
                break;
            }
        }
        assert_eq!(std::fs::read(&whole).unwrap(), std::fs::read(&resumed).unwrap(), "{method:?}");
        if killed >= kills && round + 1 >= methods.len() {
            break;
        }
    }
    println!("{killed} kills, {within} of them after the first record");
    assert!(within * 2 > killed, "only {within} of {killed} kills came within a run");
}

#[test]
fn an_edit_is_undone_by_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let method = ["--method", "alphaedit-h", "--edits", "20"];
    assert!(command(&place("session"), &place("first"), &method).status().unwrap().success());
    let undo = |id: &str| {
        let mut command = command(&place("session"), &place("undone"), &method);
        command.args(["--undo", id]).stderr(Stdio::piped()).output().unwrap()
    };
    assert!(undo("7").status.success());
    let [first, undone] = ["first", "undone"].map(|name| std::fs::read(place(name)).unwrap());
    assert!(first.len() == undone.len() && first != undone);
    let again = undo("7");
    assert!(!again.status.success());
    assert!(String::from_utf8_lossy(&again.stderr).contains("edit 7 is not in the model"));
}

/// If the disk is full in the middle of a run (here by a limit on the size of files), the error names the file, and nothing
/// confirmed is lost.
#[cfg(unix)]
#[test]
fn a_run_that_finds_the_disk_full_goes_on_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let method = ["--method", "alphaedit-h"];
    assert!(command(&place("reference"), &place("whole"), &method).status().unwrap().success());
    let limited = |kilobytes: u64| {
        let usual = command(&place("session"), &place("resumed"), &method);
        let mut shell = Command::new("sh");
        let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", 2 * kilobytes);
        shell.arg("-c").arg(script).arg(usual.get_program()).args(usual.get_args());
        shell.stdout(Stdio::null()).output().unwrap()
    };
    let mut length = 0;
    for kilobytes in [20, 30, 50] {
        let output = limited(kilobytes);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("journal"), "{said}");
        let now = std::fs::metadata(place("session").join("journal")).unwrap().len();
        assert!(now > length && now <= 1024 * kilobytes, "{length} -> {now}");
        length = now;
    }
    assert!(command(&place("session"), &place("resumed"), &method).status().unwrap().success());
    assert_eq!(std::fs::read(place("whole")).unwrap(), std::fs::read(place("resumed")).unwrap());
}
