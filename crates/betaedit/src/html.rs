//! A self-contained HTML page with the tables and plots of a run.

use std::path::Path;

use crate::files::replace;
use crate::generated::chat_answer;
use crate::plot;
use crate::probes;
use crate::report::{self, Seconds, curves};
use crate::run::Run;
use crate::scores::{self, Scores};
use crate::terminal::Done;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1120px;margin:2em auto;padding:0 1em;color:#222}\
    table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .9em .25em 0;border-bottom:1px solid #ddd;text-align:left;\
    vertical-align:top}h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}.new{color:#00684f;font-weight:600}\
    svg{max-width:100%;height:auto}small{color:#666}";

/// The completion of a fact's prompt, before and after.
pub struct Said {
    pub case_id: u64,
    pub prompt: String,
    pub target: String,
    pub before: String,
    pub after: String,
}

pub fn write(path: &Path, run: &Run, before: &Scores, after: &Scores, said: &[Said], seconds: Seconds) -> Done {
    let plan = &run.description.plan;
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>betaedit</title><style>{STYLE}</style>\
         <h1>{} facts, {}, layers {}</h1><p>{}<br><small>{}</small></p>",
        run.held().len(),
        escaped(&plan.method),
        plan.layers,
        escaped(&run.description.model.display().to_string()),
        escaped(&seconds.line()),
    );
    page += "<h2>Metrics</h2>";
    page += &table(&scores::rows(&[("before", before), ("after", after)], Some(before)));
    page += "<p><small>Means, with 95 % intervals in brackets. Efficacy, generality, specificity: every token of the wanted \
             target is the model's first choice, at the prompt, its paraphrases, and prompts about other subjects; prob: the \
             target is more probable than its rival. Agreement: the first choice at prompts about other subjects is the same as \
             before the edits. Plain, qa, chat: what the model generates, at the prompt, at the prompt as a question, and in a chat. \
             Known: simple facts that it answers rightly, without those about edited subjects.</small></p>";
    let asked = probes::rows(&[("before", before), ("after", after)], Some(before));
    if !asked.is_empty() {
        page += "<h2>Portability and locality</h2>";
        page += &table(&asked);
        page += "<p><small>From generated answers, by the criteria of the data set. Counted: probes whose conditions held before the \
                 edits. Where written: passed, over the facts that the edited model gives at their own prompts. Agreement: the \
                 answer begins as before the edits. Recall: ROUGE-L recall of the wanted answer.</small></p>";
    }
    page += &answers(before, after, said);
    page +=
        "<h2>Layers</h2><p>Leakage is the change at keys of ordinary text; drift is the norm of the change.</p><pre>";
    page += &escaped(&report::layer_table(&run.session));
    page += "</pre>";
    page += &plot::svg("Leakage and drift", "facts", &curves(&run.session))?;
    page += "<h2>Settings</h2><pre>";
    page += &escaped(&toml::to_string(plan)?);
    page += "</pre></html>\n";
    replace(path, &page)
}

/// What the model says about facts: how it continues their prompts, and what it answers in a chat, if it was asked in one.
fn answers(before: &Scores, after: &Scores, said: &[Said]) -> String {
    if said.is_empty() {
        return String::new();
    }
    let chats = said.iter().any(|said| chat_answer(after, said.case_id).is_some());
    let mut page = "<h2>What the model says</h2><table><tr><th>prompt<th>wanted<th>before<th>after".to_owned();
    page += if chats { "<th>in a chat, before<th>in a chat, after</tr>" } else { "</tr>" };
    for Said { case_id, prompt, target, before: was, after: is } in said {
        let [prompt, target, was, is] = [prompt, target, was, is].map(|text| escaped(text));
        page += &format!("<tr><td>{prompt}<td>{target}<td>{was}<td class=\"new\">{is}");
        if chats {
            let [was, is] = [before, after].map(|scores| escaped(chat_answer(scores, *case_id).unwrap_or("-")));
            page += &format!("<td>{was}<td class=\"new\">{is}");
        }
        page += "</tr>";
    }
    page + "</table>"
}

fn table(rows: &[Vec<String>]) -> String {
    let row = |cells: &Vec<String>| {
        let cells: String = cells.iter().map(|cell| format!("<td>{}", escaped(cell))).collect();
        format!("<tr>{cells}</tr>")
    };
    format!("<table>{}</table>", rows.iter().map(row).collect::<String>())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
