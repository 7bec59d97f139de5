//! `betaedit stats`, and the directory of statistics that it writes.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use betaedit_core::facts::shipped;
use betaedit_core::format::{Fingerprint, Statistics};
use betaedit_core::llm::{Collector, Config, GradientCollector, Model, Tokenizer};
use serde_json::json;

use crate::gradients;
use crate::layers::Layers;
use crate::parts::{self, Part, Share};
use crate::settings::Plan;
use crate::source::{SHIPPED, open_lowest, open_model, setting, text};
use crate::stored::{layer_spectrum, statistics_path};
use crate::terminal::{Done, Terminal, table};

#[derive(clap::Args)]
pub struct Arguments {
    /// Model: a Hugging Face directory or a .gguf file
    #[arg(long, value_name = "M", required_unless_present = "merge")]
    model: Option<PathBuf>,
    /// Texts like those the model was trained on; "shipped" for the 65,000 tokens or so that come with the program
    #[arg(long, value_name = "FILE", num_args = 1.., default_values_t = [SHIPPED.to_owned()])]
    text: Vec<String>,
    /// Layers to edit, such as 5-10 or 5,7 [default: depends on the model]
    #[arg(long)]
    layers: Option<Layers>,
    /// Number of tokens to read [default: ten of texts for each dimension of a key, and those in chats]
    #[arg(long, value_name = "N")]
    tokens: Option<u64>,
    /// Share of the tokens that are read in chats: sentences of the texts that a user begins and the model says, by the model's chat
    /// template [default: a third, 0 for a model without a template]
    #[arg(long, value_name = "SHARE")]
    chats: Option<f64>,
    /// Number of tokens over which the gradients of the loss are collected, by which the search for a target knows where the model is
    /// sensitive; 0 = none [default: ten for each dimension of an output]
    #[arg(long, value_name = "N")]
    gradients: Option<u64>,
    /// Write second moments alone, without their eigendecompositions: enough for methods that edit in the whole space (MEMIT, PMET,
    /// EMMET, ENCORE, RLSEdit, SimIE and those with history). Other methods decompose them when they first need it
    #[arg(long)]
    no_spectra: bool,
    /// Read only part I of N of the texts, for jobs that share them: each in a directory of its own, of which --merge makes one
    #[arg(long, value_name = "I/N")]
    part: Option<Part>,
    /// Merge the statistics of the parts in these directories
    #[arg(long, value_name = "DIR", num_args = 1..,
        conflicts_with_all = ["model", "text", "layers", "tokens", "chats", "gradients", "part"])]
    merge: Vec<PathBuf>,
    /// Directory for the statistics; an interrupted run continues there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Whether what was collected is decomposed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Spectra {
    Written,
    Left,
}

impl Arguments {
    fn spectra(&self) -> Spectra {
        if self.no_spectra { Spectra::Left } else { Spectra::Written }
    }
}

pub fn run(arguments: &Arguments, terminal: Terminal) -> Done {
    let Some(model) = &arguments.model else {
        return parts::merge(&arguments.merge, arguments.spectra(), &arguments.out, terminal);
    };
    let layers = |config: &Config| arguments.layers.clone().unwrap_or(Plan::usual(config).layers);
    let (model, tokenizer) = match arguments.gradients {
        // Gradients come from the logits, keys from below.
        Some(0) => open_lowest(model, |config| layers(config).highest() + 1, terminal)?,
        _ => open_model(model, terminal)?,
    };
    let layers = layers(model.config());
    let texts = arguments.text.iter().map(|path| text(path, shipped::STATISTICS_TEXT)).collect::<Done<Vec<_>>>()?;
    let Arguments { tokens, chats, gradients, part, .. } = *arguments;
    let reading = Texts { texts: &texts, tokens, chats, gradients, spectra: arguments.spectra(), part };
    collect(&model, &tokenizer, &layers, reading, &arguments.out, terminal)
}

/// What is read.
#[derive(Clone, Copy)]
pub struct Texts<'a> {
    pub texts: &'a [String],
    pub tokens: Option<u64>,
    /// The share of the tokens that are read in chats.
    pub chats: Option<f64>,
    /// The number of tokens that gradients are collected over.
    pub gradients: Option<u64>,
    pub spectra: Spectra,
    /// The part of the texts that is read, if it is not the whole.
    pub part: Option<Part>,
}

/// The share of the tokens that are read in chats, where the model has a template.
const IN_CHATS: f64 = 1.0 / 3.0;

/// Time between two saves.
const SAVED_EVERY: Duration = Duration::from_secs(20);

/// Reads texts and writes statistics and spectra. Continues where an earlier run stopped.
pub fn collect(
    model: &Model,
    tokenizer: &Tokenizer,
    layers: &Layers,
    reading: Texts<'_>,
    folder: &Path,
    terminal: Terminal,
) -> Done {
    let Texts { texts, tokens, chats, gradients: of_gradients, spectra, part } = reading;
    std::fs::create_dir_all(folder).map_err(|error| format!("`{}`: {error}", folder.display()))?;
    let collecting = |share| Collector::new(model, tokenizer, &layers.0)?.with_chats(share);
    let chats = chats.unwrap_or_else(|| if collecting(IN_CHATS).is_ok() { IN_CHATS } else { 0.0 });
    let mut collector = collecting(chats)?;
    let enough = tokens.unwrap_or(collector.enough());
    let share = match part {
        Some(part) => part.share(collector.count_windows(texts.iter().flat_map(|text| pieces(text)), enough)?),
        None => Share::whole(enough),
    };
    let text = format!("blake3 {}{SETTING}{}", text_hash(texts, chats), setting(model, tokenizer)?);
    let read = Reading::resume(model, layers, &text, &share, folder)?;
    collector = collector.starting_at(read.windows).ending_before(share.windows.end);
    if read.tokens > 0 {
        terminal.say(format!("continuing after {} tokens", read.tokens));
    }
    let started = Instant::now();
    read.on(&mut collector, texts, &share, folder, terminal)?;
    let seconds = started.elapsed().as_secs_f64();
    let total = read.tokens + collector.tokens();
    // A part of the texts is enough for the gradients: the first part has them.
    if part.is_none_or(|part| part.is_first()) {
        let mut sensing = GradientCollector::new(model, tokenizer, &layers.0)?.with_chats(chats)?;
        let of_gradients = of_gradients.unwrap_or(sensing.enough());
        gradients::collect(&mut sensing, of_gradients, texts, &read.fingerprints, folder, terminal)?;
    }
    if let Some(part) = part {
        terminal.say(format!(
            "part {part}: {total} tokens in {}; `betaedit stats --merge` joins the parts",
            folder.display()
        ));
        terminal.result(&json!({ "part": part.to_string(), "tokens": total, "out": folder }));
        return Ok(());
    }
    if total < enough {
        terminal.note(format!(
            "the texts end after {total} of the {enough} tokens to read: give more text for better statistics"
        ));
    }
    let rate = collector.tokens() as f64 / seconds.max(1e-9);
    conclude(&layers.0, spectra, folder, Some(rate), terminal)
}

/// Decomposes what was collected, and tells about it.
pub fn conclude(layers: &[usize], spectra: Spectra, folder: &Path, rate: Option<f64>, terminal: Terminal) -> Done {
    let mut rows = vec![match spectra {
        Spectra::Written => {
            ["layer", "trace", "largest", "median", "smallest", "below 0.02"].map(str::to_owned).to_vec()
        }
        Spectra::Left => ["layer", "trace"].map(str::to_owned).to_vec(),
    }];
    let (mut results, mut total) = (vec![], 0);
    for &layer in layers {
        let statistics = Statistics::read(statistics_path(folder, layer))?;
        total = statistics.tokens();
        let moment = statistics.moment_without_witness()?;
        let mut row = vec![layer.to_string(), format!("{:.3}", moment.trace())];
        let mut result = json!({ "layer": layer, "tokens": total, "d_in": moment.d_in(), "trace": moment.trace() });
        if spectra == Spectra::Written {
            let spectrum = layer_spectrum(&statistics, layer, folder, &moment, terminal)?;
            let values = spectrum.values();
            let (smallest, median, below) = (values[0], values[values.len() / 2], spectrum.count_below(0.02));
            row.extend([
                format!("{:.4}", spectrum.largest()),
                format!("{median:.5}"),
                format!("{smallest:.2e}"),
                format!("{below} of {}", spectrum.dim()),
            ]);
            for (name, value) in [("largest", spectrum.largest()), ("median", median), ("smallest", smallest)] {
                result[name] = json!(value);
            }
            result["below_0.02"] = json!(below);
        }
        rows.push(row);
        results.push(result);
    }
    terminal.say(table(&rows));
    let rated = rate.map_or_else(String::new, |rate| format!(", {rate:.0} per second"));
    let what = if spectra == Spectra::Written { "statistics and spectra" } else { "statistics" };
    terminal.say(format!("\n{total} tokens{rated}; {what} are in {}", folder.display()));
    terminal.result(&json!({ "tokens": total, "tokens_per_second": rate, "layers": results, "out": folder }));
    Ok(())
}

/// A text in parts of whole lines, so that only the part of a long text that is read is tokenized.
pub fn pieces(text: &str) -> impl Iterator<Item = &str> {
    const BYTES: usize = 1 << 16;
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = rest.as_bytes().iter().skip(BYTES).position(|&byte| byte == b'\n');
        let (piece, more) = rest.split_at(end.map_or(rest.len(), |end| BYTES + end + 1));
        rest = more;
        (!piece.is_empty()).then_some(piece)
    })
}

/// What stands before the model's [`setting`] in the description of a text.
pub const SETTING: &str = ", setting ";

/// The statistics that an earlier run left.
struct Reading {
    fingerprints: Vec<Fingerprint>,
    earlier: Vec<Option<Statistics>>,
    windows: usize,
    tokens: u64,
}

impl Reading {
    fn resume(model: &Model, layers: &Layers, text: &str, share: &Share, folder: &Path) -> Done<Self> {
        let fingerprint = |&layer: &usize| Fingerprint { model: model.fingerprint().into(), layer, text: text.into() };
        let fingerprints: Vec<_> = layers.0.iter().map(fingerprint).collect();
        let mut earlier = vec![];
        for fingerprint in &fingerprints {
            let path = statistics_path(folder, fingerprint.layer);
            let there = path.exists().then(|| Statistics::read(&path)).transpose()?;
            if there.as_ref().is_some_and(|there| there.fingerprint() != Some(fingerprint) || !share.has_begun(there)) {
                let problem = "the file has statistics of another model, configuration, tokenizer, text or part, or of an earlier version of this program: use another directory, or remove the file";
                return Err(format!("`{}`: {problem}", path.display()).into());
            }
            earlier.push(there);
        }
        let ends: Vec<Option<usize>> = earlier.iter().map(|there| there.as_ref().and_then(windows_read)).collect();
        // If layers stopped at different places, because a file was lost, all layers start again.
        match ends.first() {
            Some(Some(windows)) if ends.iter().all(|end| end == &ends[0]) => {
                let tokens = earlier[0].as_ref().map_or(0, Statistics::tokens);
                Ok(Self { fingerprints, windows: *windows, tokens, earlier })
            }
            _ => {
                let windows = share.windows.start;
                Ok(Self { earlier: vec![None; fingerprints.len()], fingerprints, windows, tokens: 0 })
            }
        }
    }

    /// Reads on, and saves from time to time.
    fn on(
        &self,
        collector: &mut Collector<'_>,
        texts: &[String],
        share: &Share,
        folder: &Path,
        terminal: Terminal,
    ) -> Done {
        let mut saved = Instant::now();
        let bar = terminal.bar(share.about, "statistics");
        let mut failure = None;
        while self.tokens + collector.tokens() < share.enough && failure.is_none() {
            let before = collector.tokens();
            collector.read(texts.iter().flat_map(|text| pieces(text)), share.enough - self.tokens, |progress| {
                bar.set_position(self.tokens + progress.tokens);
                if saved.elapsed() < SAVED_EVERY { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            failure = self.save(collector, share, folder, terminal).err();
            saved = Instant::now();
            if collector.tokens() == before {
                break;
            }
        }
        bar.finish_and_clear();
        failure.map_or(Ok(()), Err)
    }

    fn save(&self, collector: &Collector<'_>, share: &Share, folder: &Path, terminal: Terminal) -> Done {
        let windows = collector.windows();
        if windows.is_empty() {
            return Ok(());
        }
        for ((moment, fingerprint), earlier) in collector.moments().values().zip(&self.fingerprints).zip(&self.earlier)
        {
            let mut statistics =
                Statistics::from_moment(moment, fingerprint.clone(), &share.name(&windows), terminal.par)?;
            if let Some(earlier) = earlier {
                statistics.merge(earlier)?;
            }
            statistics.write(statistics_path(folder, fingerprint.layer))?;
        }
        Ok(())
    }
}

/// A hash of texts, and of how much of them is read in chats.
fn text_hash(texts: &[String], chats: f64) -> String {
    let mut hasher = blake3::Hasher::new();
    texts.iter().for_each(|text| {
        hasher.update(text.as_bytes()).update(&[0]);
    });
    if chats > 0.0 {
        hasher.update(&chats.to_le_bytes());
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

/// The window after the last one that was read.
fn windows_read(statistics: &Statistics) -> Option<usize> {
    statistics.parts().filter_map(|part| part.rsplit(' ').next()?.parse::<usize>().ok()).max()
}
