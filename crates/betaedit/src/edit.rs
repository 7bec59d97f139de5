//! `betaedit edit`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use betaedit_core::facts::{Fact, Known, shipped};
use betaedit_core::llm::Request;
use betaedit_core::session::Outcome;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::files::{self, replace};
use crate::generated;
use crate::html::{self, Said};
use crate::outputs::{OutputPlaces, Outputs};
use crate::probes;
use crate::progress::Follow;
use crate::report::{self, Reports, Seconds};
use crate::rest;
use crate::run::{Entry, More, Run, check_beside};
use crate::scores::{self, Measured, Scores, completion};
use crate::settings::Settings;
use crate::source::{FactArguments, open_model, setting, text};
use crate::terminal::{Done, Terminal, shortened, table};

#[derive(clap::Args)]
pub struct Arguments {
    /// Model: a Hugging Face directory or a .gguf file
    #[arg(long, value_name = "M")]
    pub model: PathBuf,
    #[command(flatten)]
    pub facts: FactArguments,
    /// Directory with statistics of the layers, from `betaedit stats` or as `.npz` files of the MEMIT family
    #[arg(long, value_name = "STATS_DIR")]
    pub stats: PathBuf,
    /// Keep the run in this directory, to continue it after an interruption and to undo edits
    #[arg(long, value_name = "DIR")]
    pub session: Option<PathBuf>,
    /// With --session: add these facts to those already in the session
    #[arg(long, requires = "session")]
    pub append: bool,
    /// TOML file of settings, named like the flags below; flags take precedence
    #[arg(long, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
    /// Text on whose first 4096 tokens or so to measure perplexity before and after; "shipped" for the one that comes with the program
    #[arg(long, value_name = "FILE")]
    pub eval_text: Option<String>,
    /// Evaluate at most N facts, evenly spread, 0 = none [default: all]
    #[arg(long, value_name = "N")]
    pub eval_limit: Option<usize>,
    /// Show the model's completions for N facts
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub show: usize,
    #[command(flatten)]
    pub generated: generated::Arguments,
    #[command(flatten)]
    pub probes: probes::Arguments,
    #[command(flatten)]
    pub outputs: Outputs,
    #[command(flatten)]
    pub reports: Reports,
    #[command(flatten)]
    pub settings: Settings,
}

impl Arguments {
    /// What the command reads.
    fn inputs(&self) -> Vec<&Path> {
        let texts = [Some(&self.facts.facts), self.eval_text.as_ref()].into_iter().flatten().map(Path::new);
        let config = self.config.as_deref();
        [self.model.as_path(), &self.stats].into_iter().chain(config).chain(texts).collect()
    }

    /// Refuses files in the places of the session's own.
    fn check_session(&self, outputs: &[&Option<PathBuf>], inputs: &[&Path]) -> Done {
        let Some(session) = &self.session else { return Ok(()) };
        let outputs = outputs.iter().filter_map(|path| path.as_deref());
        check_beside(session, outputs.chain(inputs.iter().copied()))
    }
}

pub fn run(arguments: &Arguments, terminal: Terminal) -> Done<ExitCode> {
    let (_, code) = edit(arguments, terminal)?;
    Ok(code)
}

/// Edits, evaluates, and writes the outputs. The run stays open.
pub fn edit(arguments: &Arguments, terminal: Terminal) -> Done<(Run, ExitCode)> {
    let started = Instant::now();
    let Reports { report, html, plot } = &arguments.reports;
    let inputs = arguments.inputs();
    let page = arguments.reports.page();
    let answers = &arguments.generated.answers;
    files::check(&[report, &page, plot, answers], &inputs)?;
    arguments.check_session(&[report, &page, plot, answers], &inputs)?;
    let places =
        arguments.outputs.check(&arguments.model, &inputs, &[report, html, plot, answers, &arguments.session])?;
    let (facts, zsre_target) = arguments.facts.read(terminal)?;
    arguments.outputs.check_rank(facts.len(), arguments.session.as_deref())?;
    let held_out = arguments.eval_text.as_deref().map(|path| text(path, shipped::HELD_OUT_TEXT)).transpose()?;
    let opened = open_model(&arguments.model, terminal)?;
    arguments.outputs.check_model(&opened.0)?;
    let settings = arguments.generated.settings(&opened.1)?;
    let plan = arguments.settings.resolve(arguments.config.as_deref(), opened.0.config())?;
    let bar = terminal.bar(facts.len() as u64, "edits");
    let observer = Follow::new(bar.clone());
    let directory = arguments.session.as_deref();
    let mut run = Run::begin(opened, &arguments.model, &arguments.stats, plan, directory, observer, terminal)?;
    run.follow(&bar);
    let facts = writable_facts(facts, &run, arguments.facts.skip_bad, terminal)?;
    let requests: Vec<Request> = facts.iter().map(|fact| run.description.plan.request(fact)).collect();
    let named = named_subjects(&run, held_out.as_deref(), &facts, terminal)?;
    let done = if arguments.append { 0 } else { agreed(&requests, &run)? };
    let evaluated = sample(&facts, arguments.eval_limit.unwrap_or(usize::MAX));
    let known = known(&facts, &evaluated, &run);
    let measured = Measured {
        facts: &evaluated,
        text: held_out.as_deref(),
        known: &known,
        settings: &settings,
        probes: arguments.probes.setting(),
        unedited: true,
    };
    rest::make_room(&mut run.session, directory, measured);
    let before = Before::of(&run, directory, measured, terminal)?;
    bar.set_length(run.session.processed() + (requests.len() - done) as u64);
    bar.reset();

    let clock = Instant::now();
    let rejections = write_facts(&mut run, &requests, done, terminal)?;
    let editing = clock.elapsed();
    bar.finish_and_clear();
    if directory.is_some() {
        run.session.snapshot()?;
    }
    let seconds = seconds(&run, requests.len() - done, editing);
    rest::make_room(&mut run.session, directory, measured);
    let (model, tokenizer) = (run.adapter().model(), run.adapter().tokenizer());
    let after = Scores::of(model, tokenizer, Measured { unedited: false, ..measured }, "after", terminal)?;
    let shown = sample(&facts, arguments.show);
    let said = shown.iter().map(|fact| said(&run, fact)).collect::<Done<Vec<_>>>()?;
    tell(&run, &before, &after, &said, seconds, terminal);

    let mut result = report::edits(&run, &before, &after, seconds, &rejections);
    result["zsre_target"] = json!(zsre_target.map(|field| field.to_string()));
    result["named_subjects"] = json!(named);
    result["seconds"]["run"] = json!(started.elapsed().as_secs_f64());
    // The report first: it is not lost if the disk has no room for the model.
    write_reports(&arguments.reports, &run, (&before, &after), &said, seconds, &result)?;
    arguments.generated.write(&[("before", &before), ("after", &after)])?;
    write_outputs(arguments, &places, &mut run, &mut result, terminal)?;
    terminal.result(&result);
    let all_rejected = seconds.facts > 0 && rejections.len() == seconds.facts;
    Ok((run, ExitCode::from(if all_rejected { 3 } else { 0 })))
}

/// Writes the requests that are left, and returns those that were rejected, with the reasons.
fn write_facts(run: &mut Run, requests: &[Request], done: usize, terminal: Terminal) -> Done<Vec<Value>> {
    let mut rejections = vec![];
    // A run that was killed between a batch and its consolidation goes on with the consolidation.
    run.consolidate_if_due(More::Follow, terminal)?;
    let (mut at, mut sought, ahead) = (done, done, run.description.plan.lookahead);
    for batch in batches(requests, done, run.description.plan.batch) {
        if ahead > 1 && at >= sought {
            let first = at / ahead * ahead;
            sought = (first + ahead).min(requests.len());
            run.look_ahead(first, &requests[at..sought])?;
        }
        at += batch.len();
        run.edit(batch, |outcome, batch| {
            if let Outcome::Rejected { ids, reason, .. } = outcome {
                rejections.extend(ids.iter().zip(batch).map(
                    |(id, request)| json!({ "edit": id.0, "subject": request.subject(), "reason": reason.to_string() }),
                ));
            }
        })?;
        run.consolidate_if_due(More::Follow, terminal)?;
    }
    run.found.remove()?;
    run.consolidate_if_due(More::None, terminal)?;
    Ok(rejections)
}

/// Writes the model and the adapters, and then the report again, with what was lost.
fn write_outputs(
    arguments: &Arguments,
    places: &OutputPlaces,
    run: &mut Run,
    result: &mut Value,
    terminal: Terminal,
) -> Done {
    if run.held().is_empty() {
        arguments.outputs.note_nothing(terminal);
        return Ok(());
    }
    result["outputs"] = arguments.outputs.write(places, run, terminal)?;
    match &arguments.reports.report {
        Some(path) => report::write_json(path, result),
        None => Ok(()),
    }
}

/// Where the time of the edits went.
fn seconds(run: &Run, facts: usize, editing: Duration) -> Seconds {
    let adapter = run.session.adapter();
    Seconds {
        facts,
        targets: adapter.targets.as_secs_f64(),
        keys: adapter.keys.as_secs_f64(),
        linear_algebra: editing.saturating_sub(adapter.targets + adapter.keys).as_secs_f64(),
        total: editing.as_secs_f64(),
    }
}

/// The batches that are left, with the same ends wherever a run goes on.
fn batches(requests: &[Request], done: usize, size: usize) -> impl Iterator<Item = &[Request]> {
    let first = done.next_multiple_of(size).min(requests.len());
    let (begun, others) = (&requests[done.min(first)..first], &requests[first..]);
    std::iter::once(begun).filter(|batch| !batch.is_empty()).chain(others.chunks(size))
}

/// At most `most` facts, evenly spread.
pub fn sample(facts: &[Fact], most: usize) -> Vec<Fact> {
    let n = most.min(facts.len());
    (0..n).map(|i| facts[i * facts.len() / n].clone()).collect()
}

/// What the model is expected to know after the edits of this run and of the session. Nothing, if nothing is evaluated.
pub fn known(facts: &[Fact], evaluated: &[Fact], run: &Run) -> Vec<Known> {
    if evaluated.is_empty() {
        return vec![];
    }
    generated::known(facts.iter().map(Fact::subject).chain(run.entries.iter().map(|entry| &*entry.subject)))
}

/// The facts that can be written.
fn writable_facts(facts: Vec<Fact>, run: &Run, skip_bad: bool, terminal: Terminal) -> Done<Vec<Fact>> {
    let mut good = vec![];
    for fact in facts {
        match run.adapter().check(&run.description.plan.request(&fact)) {
            Ok(()) => good.push(fact),
            Err(error) if skip_bad => terminal.note(format!("left out: fact {}: {error}", fact.case_id())),
            Err(error) => return Err(format!("fact {}: {error} (--skip-bad leaves it out)", fact.case_id()).into()),
        }
    }
    if good.is_empty() { Err("none of the facts can be written".into()) } else { Ok(good) }
}

/// The subjects that the text for perplexity names.
fn named_subjects(run: &Run, text: Option<&str>, facts: &[Fact], terminal: Terminal) -> Done<Option<Vec<String>>> {
    let Some(text) = text else { return Ok(None) };
    let named = scores::named(&run.unedited, run.adapter().tokenizer(), text, facts)?;
    if !named.is_empty() {
        let (count, names) = (named.len(), shortened(&named.join(", "), 60));
        terminal.note(format!(
            "the text for perplexity names {count} of the subjects ({names}): edits are meant to change these parts of it"
        ));
    }
    Ok(Some(named))
}

/// How many of the requests the session has seen. It must have started with them.
fn agreed(requests: &[Request], run: &Run) -> Done<usize> {
    for (i, (entry, request)) in run.entries.iter().zip(requests).enumerate() {
        if *entry != Entry::from(request) {
            let here = Entry::from(request);
            let fields = [
                ("subject", &entry.subject, &here.subject),
                ("prompt", &entry.prompt, &here.prompt),
                ("target", &entry.target, &here.target),
            ];
            let (field, there, here) = fields.into_iter().find(|(_, there, here)| there != here).unwrap_or(fields[0]);
            let problem =
                format!("edit {i} of the session has the {field} `{there}`, but fact {i} of the file has `{here}`");
            return Err(format!("{problem}: give the same facts, or --append to add these").into());
        }
    }
    Ok(run.entries.len().min(requests.len()))
}

/// The scores of the unedited model. A session keeps them, so that they are not measured again when it continues.
#[derive(Serialize, Deserialize)]
struct Before {
    of: String,
    scores: Scores,
}

impl Before {
    fn of(run: &Run, directory: Option<&Path>, measured: Measured<'_>, terminal: Terminal) -> Done<Scores> {
        let (model, tokenizer) = (&run.unedited, run.adapter().tokenizer());
        let mut hasher = blake3::Hasher::new();
        hasher.update(model.fingerprint().as_bytes()).update(&serde_json::to_vec(measured.facts)?);
        hasher.update(serde_json::to_string(&(measured.settings, measured.probes, measured.known))?.as_bytes());
        hasher.update(measured.text.unwrap_or("-").as_bytes()).update(setting(model, tokenizer)?.as_bytes());
        let of = hasher.finalize().to_hex().to_string();
        let path = directory.map(|directory| directory.join("before.json"));
        let kept = path.as_ref().and_then(|path| serde_json::from_slice::<Self>(&std::fs::read(path).ok()?).ok());
        if let Some(kept) = kept.filter(|kept| kept.of == of) {
            return Ok(kept.scores);
        }
        let scores = Scores::of(model, tokenizer, measured, "before", terminal)?;
        if let Some(path) = path {
            replace(&path, serde_json::to_string(&Self { of, scores: scores.clone() })?)?;
        }
        Ok(scores)
    }
}

/// Tokens in the completions that are shown.
const SHOWN: usize = 8;

fn said(run: &Run, fact: &Fact) -> Done<Said> {
    let (tokenizer, prompt) = (run.adapter().tokenizer(), fact.full_prompt());
    let before = completion(&run.unedited, tokenizer, &prompt, SHOWN)?.text;
    let after = completion(run.adapter().model(), tokenizer, &prompt, SHOWN)?.text;
    Ok(Said { case_id: fact.case_id(), prompt, target: fact.target_new().to_owned(), before, after })
}

fn tell(run: &Run, before: &Scores, after: &Scores, said: &[Said], seconds: Seconds, terminal: Terminal) {
    let (held, rejected) = (run.held().len(), run.session.report().rejected);
    terminal.say(format!("{held} facts are in the model, {rejected} were rejected; {} in this run", seconds.facts));
    if seconds.facts > 0 {
        terminal.say(seconds.line());
    }
    if !said.is_empty() {
        let mut rows = vec![["prompt", "wanted", "before", "after"].map(str::to_owned).to_vec()];
        rows.extend(said.iter().map(|said| {
            vec![
                shortened(&said.prompt, 44),
                shortened(&said.target, 16),
                shortened(&said.before, 30),
                shortened(&said.after, 30),
            ]
        }));
        terminal.say(format!("\n{}", table(&rows)));
    }
    terminal.say(format!("\n{}", table(&scores::rows(&[("before", before), ("after", after)], Some(before)))));
    probes::say(&[("before", before), ("after", after)], Some(before), terminal);
    terminal.say(format!("\n{}", report::layer_table(&run.session)));
}

fn write_reports(
    reports: &Reports,
    run: &Run,
    (before, after): (&Scores, &Scores),
    said: &[Said],
    seconds: Seconds,
    result: &Value,
) -> Done {
    if let Some(path) = &reports.report {
        report::write_json(path, result)?;
    }
    if let Some(path) = &reports.page() {
        html::write(path, run, before, after, said, seconds)?;
    }
    if let Some(path) = &reports.plot {
        report::draw(path, "Leakage and drift", "facts", &report::curves(&run.session))?;
    }
    Ok(())
}
