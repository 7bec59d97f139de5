//! The measurements, as JSON and as text.

use betaedit_core::Scalar;
use betaedit_core::faer::Par;
use betaedit_core::refresh::RefreshReport;
use serde_json::{Value, json};

use super::compare::Comparison;
use super::stream::Stream;
use super::{Arguments, Rule};
use crate::research::numbers::{mean, median};

/// The time and memory of the editor, and the space in which it may write.
pub struct Space {
    pub build_seconds: f64,
    pub kept_first: usize,
    pub kept_last: usize,
    /// The largest resident memory up to the end of the stream.
    pub peak: Option<u64>,
}

pub fn json<T: Scalar>(
    arguments: &Arguments,
    stream: &Stream<T>,
    space: &Space,
    comparison: &Comparison,
    par: Par,
) -> Value {
    let Comparison { relative_error, dense, full_eigen } = comparison;
    let refresh = median(stream.refreshes.iter().map(|refresh| refresh.0));
    let (edit, engine) = (mean(&stream.edit), mean(&stream.engine));
    let tenth = arguments.edits.div_ceil(10);
    let [first, last] = [&stream.edit[..tenth], &stream.edit[arguments.edits - tenth..]];
    let [first, last] = [first, last].map(|part| median(part.iter().copied()));
    let product = median(stream.product.iter().copied());
    json!({
        "d_in": arguments.d_in,
        "d_out": arguments.d_out,
        "edits": arguments.edits,
        "precision": T::NAME,
        "refresh": arguments.refresh.name(),
        "refresh_every": arguments.periodic().then_some(arguments.refresh_every),
        "refresh_weight": (arguments.refresh != Rule::Never).then_some(arguments.refresh_weight),
        "threads": par.degree(),
        "seed": arguments.seed,
        "edit_seconds_median": median(stream.edit.iter().copied()),
        "edit_seconds_mean": edit,
        "edit_seconds_first": first,
        "edit_seconds_last": last,
        "last_per_first": last.zip(first).map(|(last, first)| last / first),
        "engine_seconds_median": median(stream.engine.iter().copied()),
        "engine_seconds_mean": engine,
        "outer_product_seconds": median(stream.outer.iter().copied()),
        "product_seconds": product,
        "engine_per_product": product.map(|product| engine / product),
        "dense_edit_seconds": dense.seconds,
        "dense_difference": dense.difference,
        "speedup_vs_dense": dense.seconds.map(|dense| dense / edit),
        "refresh_seconds": refresh,
        "refreshes": stream.refreshes.iter().map(|(seconds, refresh)| json!({
            "edits": refresh.edits,
            "seconds": seconds,
            "kept_before": refresh.kept_before,
            "kept_after": refresh.kept_after,
        })).collect::<Vec<_>>(),
        "full_eigen_seconds": full_eigen,
        "refresh_speedup": full_eigen.zip(refresh).map(|(full, refresh)| full / refresh),
        "build_seconds": space.build_seconds,
        "stream_seconds": stream.seconds,
        "peak_rss_bytes": space.peak,
        "peak_rss_bytes_total": peak_rss(),
        "relative_error_vs_f64": relative_error,
        "gain_first": stream.gains.first(),
        "gain_median": median(stream.gains.iter().copied()),
        "kept_directions_first": space.kept_first,
        "kept_directions_last": space.kept_last,
    })
}

pub fn summary(arguments: &Arguments, report: &Value, refreshes: &[(f64, RefreshReport)]) -> String {
    let number = |field: &str| report[field].as_f64().unwrap_or(f64::NAN);
    let time = |field: &str| duration(number(field));
    let mut lines = vec![
        format!(
            "{} edits of a {} x {} weight, {}, {} threads, refresh {}",
            arguments.edits,
            arguments.d_out,
            arguments.d_in,
            report["precision"].as_str().unwrap_or_default(),
            report["threads"],
            arguments.refresh.name()
        ),
        format!(
            "space                 {} of {} directions at the start, {} at the end; gain of a key {:.3} first, {:.3} median",
            report["kept_directions_first"],
            arguments.d_in,
            report["kept_directions_last"],
            number("gain_first"),
            number("gain_median")
        ),
        format!("build                 {}", time("build_seconds")),
        format!(
            "edit                  {} mean, {} median, {} first tenth, {} last tenth (x {:.3})",
            time("edit_seconds_mean"),
            time("edit_seconds_median"),
            time("edit_seconds_first"),
            time("edit_seconds_last"),
            number("last_per_first")
        ),
        format!("  engine              {} mean, {} median", time("engine_seconds_mean"), time("engine_seconds_median")),
        format!("  onto the weight     {}", time("outer_product_seconds")),
        format!(
            "plain product Q k     {}; the engine takes {:.2} times that",
            time("product_seconds"),
            number("engine_per_product")
        ),
    ];
    lines.extend(refreshes.iter().map(|(seconds, refresh)| {
        let (edits, before, after) = (refresh.edits, refresh.kept_before, refresh.kept_after);
        format!("refresh               {} after {edits} edits: {before} -> {after} directions", duration(*seconds))
    }));
    if !report["full_eigen_seconds"].is_null() {
        let speedup = number("refresh_speedup");
        let beside =
            if speedup.is_nan() { String::new() } else { format!("; a refresh is {speedup:.1} times as fast") };
        lines.push(format!("eigendecomposition    {}{beside}", time("full_eigen_seconds")));
    }
    if !report["dense_edit_seconds"].is_null() {
        lines.push(format!(
            "dense solve           {}; an edit is {:.0} times as fast",
            time("dense_edit_seconds"),
            number("speedup_vs_dense")
        ));
    }
    if !report["dense_difference"].is_null() {
        lines.push(format!("  its update          differs by {:.1e} of the engine's", number("dense_difference")));
    }
    if !report["relative_error_vs_f64"].is_null() {
        lines.push(format!("error                 {:.1e}, of all updates together", number("relative_error_vs_f64")));
    }
    if !report["peak_rss_bytes"].is_null() {
        lines.push(format!(
            "memory                {:.2} GiB at most up to the end of the stream",
            number("peak_rss_bytes") / 1_073_741_824.0
        ));
    }
    lines.push(format!(
        "10,000 edits          {} at the mean time of an edit",
        duration(1e4 * number("edit_seconds_mean"))
    ));
    lines.join("\n")
}

/// Seconds in a suitable unit.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.0} us", 1e6 * s),
        s if s < 1.0 => format!("{:.2} ms", 1e3 * s),
        s if s < 120.0 => format!("{s:.2} s"),
        s => format!("{:.1} min", s / 60.0),
    }
}

/// The largest resident memory of this process so far, in bytes, on Linux.
pub fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
