//! What it takes to patch a checkpoint: one pass over a shard, and little memory.
//!
//! A program of its own, because it measures the memory and the files of its whole process. The large test writes 2 GB
//! into `BETAEDIT_BIG`, or the folder for temporary files:
//!
//!     cargo test --release --all-features --test checkpoint_memory -- --ignored --nocapture

#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use betaedit_core::faer::{Mat, Par};
use betaedit_core::format::{Checkpoint, Updates};
use betaedit_core::{Orientation, Update};

/// One test at a time: each measures the whole process.
static ALONE: Mutex<()> = Mutex::new(());

const SHARDS: usize = 4;
const TENSORS: usize = 4;
const ROWS: usize = 4096;
const COLS: usize = 16384;
const BYTES: usize = 2 * ROWS * COLS;

/// Peak and present memory of the process, in bytes.
fn resident() -> (usize, usize) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let number = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        1024 * line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
    };
    (number("VmHWM:"), number("VmRSS:"))
}

/// Bytes that the process has read and written so far.
fn transferred() -> (usize, usize) {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    let number = |key: &str| io.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().parse().unwrap();
    (number("rchar:"), number("wchar:"))
}

/// Six tensors of one shard are changed at the cost of one: all of it is read once and written once.
#[test]
fn a_shard_is_read_and_written_once_whatever_number_of_its_tensors_change() {
    const LAYERS: usize = 6;
    const ROWS: usize = 64;
    const COLS: usize = 4096;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let bytes = 4 * ROWS * COLS;
    let entry = |layer: usize| {
        let (from, to) = (layer * bytes, (layer + 1) * bytes);
        format!(r#""{layer}.down":{{"dtype":"F32","shape":[{ROWS},{COLS}],"data_offsets":[{from},{to}]}}"#)
    };
    let header = format!("{{{}}}", (0..LAYERS).map(entry).collect::<Vec<_>>().join(","));
    let zeros = vec![0; LAYERS * bytes];
    std::fs::write(&path, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &zeros].concat()).unwrap();
    let length = std::fs::metadata(&path).unwrap().len() as usize;

    let checkpoint = Checkpoint::open(&path).unwrap();
    let tensors: BTreeMap<String, usize> = (0..LAYERS).map(|layer| (format!("{layer}.down"), layer)).collect();
    let weight = |layer: usize| Mat::<f32>::from_fn(ROWS, COLS, |i, j| (layer * 1000 + i + j) as f32);
    let update =
        |layer: usize| Update::from_factors(Mat::full(ROWS, 1, layer as f32), Mat::<f32>::full(1, COLS, 1.0)).unwrap();
    let updates: Updates<f32> = tensors.iter().map(|(name, &layer)| (name.clone(), update(layer))).collect();
    let way = Orientation::OutputsByInputs;
    let measured = |work: &dyn Fn()| {
        let before = transferred();
        work();
        let after = transferred();
        (after.0 - before.0, after.1 - before.1)
    };
    let passes = |bytes: usize| bytes as f64 / length as f64;
    let together = measured(&|| drop(checkpoint.replace_all(&tensors, way, |&layer| Ok(weight(layer))).unwrap()));
    let added = measured(&|| drop(checkpoint.apply(&updates, way, Par::Seq).unwrap()));
    let one_by_one = measured(&|| {
        for (name, &layer) in &tensors {
            checkpoint.replace(name, weight(layer).as_ref(), way).unwrap();
        }
    });
    for (name, (read, written)) in [("replaced", together), ("added", added)] {
        println!("{name} together: {:.2} shards read, {:.2} written", passes(read), passes(written));
        assert!((1.0..1.05).contains(&passes(written)), "{name}: {written} bytes written of {length}");
        // Each opening looks at the header and what the buffer takes with it.
        assert!(passes(read) < 1.0 + LAYERS as f64 * 0.25, "{name}: {read} bytes read of {length}");
    }
    // The measure sees passes: one each.
    assert!((6.0..6.3).contains(&passes(one_by_one.1)), "{one_by_one:?}");
    for (name, &layer) in &tensors {
        assert_eq!(checkpoint.weight::<f32>(name, way).unwrap(), weight(layer));
    }
}

fn name(shard: usize, tensor: usize) -> String {
    format!("model.layers.{}.mlp.down_proj.weight", shard * TENSORS + tensor)
}

fn write_shard(path: &Path, shard: usize) {
    let entries: Vec<String> = (0..TENSORS)
        .map(|tensor| {
            let (name, from) = (name(shard, tensor), tensor * BYTES);
            format!(r#""{name}":{{"dtype":"BF16","shape":[{ROWS},{COLS}],"data_offsets":[{from},{}]}}"#, from + BYTES)
        })
        .collect();
    let header = format!("{{{}}}", entries.join(","));
    let mut file = BufWriter::new(std::fs::File::create(path).unwrap());
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    // Numbers around 1, of changing sign.
    let row: Vec<u8> = (0..COLS).flat_map(|j| [(j * 37) as u8, 0x3f | ((j % 3 == 0) as u8) << 7]).collect();
    (0..TENSORS * ROWS).for_each(|_| file.write_all(&row).unwrap());
    file.flush().unwrap();
}

#[test]
#[ignore = "writes 2 GB, and needs as much again for the copies of the shards"]
fn a_checkpoint_of_2_gb_is_patched_in_less_than_one_tensor() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = match std::env::var("BETAEDIT_BIG") {
        Ok(folder) => tempfile::tempdir_in(folder).unwrap(),
        Err(_) => tempfile::tempdir().unwrap(),
    };
    let mut map = serde_json::Map::new();
    for shard in 0..SHARDS {
        let file = format!("model-{:05}-of-{SHARDS:05}.safetensors", shard + 1);
        write_shard(&folder.path().join(&file), shard);
        map.extend((0..TENSORS).map(|tensor| (name(shard, tensor), file.clone().into())));
    }
    let index = serde_json::json!({ "weight_map": map }).to_string();
    std::fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();

    let factor = |i: usize, j: usize| ((i * 31 + j * 17) as f32).sin() * 0.1;
    let update = || Update::from_factors(Mat::from_fn(ROWS, 16, factor), Mat::from_fn(16, COLS, factor)).unwrap();
    // One tensor of two of the shards.
    let updates = Updates::from([(name(1, 2), update()), (name(3, 0), update())]);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let (_, before) = resident();
    let start = Instant::now();
    let roundings = checkpoint.apply(&updates, Orientation::OutputsByInputs, Par::Seq).unwrap();
    let (seconds, (peak, _)) = (start.elapsed().as_secs_f64(), resident());
    for (name, rounding) in &roundings {
        println!("{name}: {rounding:?}, share {:.3}", rounding.share());
    }
    let (used, largest) = (peak - before, BYTES);
    println!(
        "{} MB of checkpoint, largest tensor {} MB: patched 2 of {} tensors in {seconds:.1} s, peak memory {} MB over the {} MB before",
        SHARDS * TENSORS * BYTES / 1_000_000,
        largest / 1_000_000,
        SHARDS * TENSORS,
        used / 1_000_000,
        before / 1_000_000,
    );
    assert!(used < largest, "{used} of {largest}");
}
