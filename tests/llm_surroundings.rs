//! The places in which a fact is written, and the subjects that must stay.

use betaedit_core::adapter::Companions;
use betaedit_core::facts::{Fact, shipped};
use betaedit_core::faer::{Col, Par};
use betaedit_core::llm::{
    Contexts, KeyRule, Message, Model, ModelAdapter, Place, Places, Request, Role, Surroundings, TargetSearch,
    Tokenizer,
};
use betaedit_core::session::SessionBuilder;
use betaedit_core::{Adapter, BetaEdit, KeyStatistics, SecondMoment};

use crate::llm_editing::contexts;
use crate::llm_models::{directory, open};

const LAYER: usize = 1;

const NAMES: &str = include_str!("../src/llm/surroundings/names.txt");

fn request() -> Request {
    Request::new("Eiffel Tower", "The {} is located in the city of", "Tokyo").unwrap()
}

fn adapter(surroundings: impl Into<Surroundings>) -> ModelAdapter {
    let (model, tokenizer) = opened();
    ModelAdapter::new(model, tokenizer, vec![LAYER], surroundings, TargetSearch::default()).unwrap()
}

/// A model with a chat template.
fn opened() -> (Model, Tokenizer) {
    let folder = directory("llama");
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: ";
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    Model::open(folder.path(), Par::Seq).unwrap()
}

/// The key at the last token of a text that is a part of another.
fn key(text: &str, up_to: &str) -> Col<f32> {
    let (model, tokenizer) = opened();
    let (whole, part) = (tokenizer.encode(text).unwrap(), tokenizer.encode(up_to).unwrap());
    let at = part.iter().zip(&whole).take_while(|(a, b)| a == b).count().min(part.len() - 1);
    model.trace(&whole).unwrap().keys.swap_remove(LAYER).col(at).to_owned()
}

fn is_near(found: betaedit_core::faer::ColRef<'_, f32>, expected: &Col<f32>) -> bool {
    (found - expected).norm_max() < 1e-5 * expected.norm_max()
}

/// Every key is that of the model at the subject in a text that the test writes out.
#[test]
fn each_place_has_a_key_of_its_own() {
    let places: Places = "plain:2,context,user,answer:0.5".parse().unwrap();
    let mut adapter = adapter(Surroundings::new(contexts()).with_places(places).with_contrast(0));
    let requests = [request()];
    let own = adapter.keys(LAYER, &requests).unwrap();
    let Companions { keys, of, .. } = adapter.companions(LAYER, &requests).unwrap().unwrap();
    let prompt = request().text();
    let behind = |opening: &str| key(&format!("{opening}{prompt}"), &format!("{opening}The Eiffel Tower"));
    assert!(is_near(own.col(0), &behind("")));
    let user = "user: Complete the sentence: ";
    let asked = format!("{user}{prompt}\nassistant: ");
    let expected = [
        (behind("Therefore it is. "), 0.5),
        (behind("I said so. "), 0.5),
        (key(&asked, &format!("{user}The Eiffel Tower")), 1.0),
        (key(&format!("{asked}{prompt} Tokyo"), &format!("{asked}The Eiffel Tower")), 0.5),
    ];
    assert_eq!((keys.ncols(), of.len()), (4, 4));
    for (j, (key, weight)) in expected.iter().enumerate() {
        // Beside the weight of the first place.
        let scale = (weight / 2.0_f64).sqrt();
        assert!((of[j].1 - scale).abs() < 1e-6 && of[j].0 == 0, "{j}: {:?}", of[j]);
        let expected = Col::from_fn(key.nrows(), |i| scale as f32 * key[i]);
        assert!(is_near(keys.col(j), &expected), "place {j}");
    }
}

#[test]
fn the_mean_of_the_places_is_one_key() {
    let places: Places = "plain,context,answer:2".parse().unwrap();
    let all = Surroundings::new(contexts()).with_places(places).with_keys(KeyRule::Mean).with_contrast(0);
    let mut adapter = adapter(all);
    let requests = [request()];
    let found = adapter.keys(LAYER, &requests).unwrap();
    assert!(adapter.companions(LAYER, &requests).unwrap().is_none());
    let prompt = request().text();
    let asked = format!("user: Complete the sentence: {prompt}\nassistant: ");
    let behind = |opening: &str, text: &str| key(&format!("{opening}{text}"), &format!("{opening}The Eiffel Tower"));
    let sum = [
        (behind("", &prompt), 0.25),
        (behind("Therefore it is. ", &prompt), 0.125),
        (behind("I said so. ", &prompt), 0.125),
        (behind(&asked, &format!("{prompt} Tokyo")), 0.5),
    ];
    let expected = Col::from_fn(found.nrows(), |i| sum.iter().map(|(key, weight)| weight * key[i]).sum::<f32>());
    assert!(is_near(found.col(0), &expected));
}

/// A key at the first token of a text is that of every subject.
#[test]
fn a_fact_is_not_written_at_the_first_token() {
    let (_, tokenizer) = opened();
    let first = Request::new("The", "{} tower is located in the city of", "Tokyo").unwrap();
    let start = tokenizer.encode("").unwrap().len();
    assert_eq!(tokenizer.encode("The").unwrap().len(), 1 + start);
    let mut bare = adapter(Surroundings::new(Contexts::default()).with_contrast(0));
    let mut all = adapter(Surroundings::new(contexts()).with_contrast(0));
    let requests = [first];
    if start == 0 {
        let (own, further) = (all.keys(LAYER, &requests).unwrap(), all.companions(LAYER, &requests).unwrap().unwrap());
        let text = "Therefore it is. The tower is located in the city of";
        assert!(is_near(own.col(0), &key(text, "Therefore it is. The")));
        assert_eq!(further.of.len(), 2, "behind the other text, and in the chat");
    }
    // In the chat there is another place.
    assert!(bare.keys(LAYER, &requests).is_ok());
    let only = Surroundings::new(Contexts::default()).with_places("plain".parse().unwrap()).with_contrast(0);
    assert!(adapter(only).keys(LAYER, &requests).is_ok(), "where there is no other, it is written there");
}

#[test]
fn without_a_template_there_are_no_chats() {
    let (model, tokenizer) = open("llama");
    let new = |places: &str| {
        let surroundings = Surroundings::new(contexts()).with_places(places.parse().unwrap()).with_contrast(0);
        let search = TargetSearch::default();
        ModelAdapter::new(model.clone(), tokenizer.clone(), vec![LAYER], surroundings, search).unwrap()
    };
    let further = new("plain,context,user,answer").companions(LAYER, &[request()]).unwrap().unwrap();
    assert_eq!(further.of.len(), contexts().prefixes().len());
    let refused = new("answer").check(&request()).unwrap_err().to_string();
    assert!(refused.contains("no place") && refused.contains("chat template"), "{refused}");
}

#[test]
fn contrast_subjects_are_at_residual_zero_and_apart_from_the_requests() {
    let names: Vec<&str> = NAMES.lines().collect();
    let about = |subject: &str| Request::new(subject, "The {} is located in the city of", "Tokyo").unwrap();
    let mut adapter = adapter(Surroundings::new(Contexts::default()).with_places("plain".parse().unwrap()));
    let requests = [about(names[0]), about(names[1])];
    let Companions { keys, of, .. } = adapter.companions(LAYER, &requests).unwrap().unwrap();
    assert_eq!(of, [vec![(0, 0.0); 16], vec![(1, 0.0); 16]].concat());
    // In the same prompt, each name as often as its weight says.
    let possible: Vec<(&str, Col<f32>)> =
        names.iter().map(|name| (*name, key(&format!("The {name} is located"), &format!("The {name}")))).collect();
    for j in 0..keys.ncols() {
        let unscaled = Col::from_fn(keys.nrows(), |i| keys[(i, j)] / 10.0_f32.sqrt());
        let found: Vec<&str> =
            possible.iter().filter(|(_, key)| is_near(unscaled.as_ref(), key)).map(|(name, _)| *name).collect();
        assert!(!found.is_empty(), "column {j} is no name's key");
        assert!(!found.contains(&names[0]) && !found.contains(&names[1]), "{found:?} are subjects of the batch");
    }
    // The choice depends on the request alone, not on the edits so far.
    let d_in = keys.nrows();
    let mut moment = SecondMoment::new(d_in);
    moment.observe(keys.as_ref(), Par::Seq).unwrap();
    let mut session = SessionBuilder::new(BetaEdit::default().with_lambda1(0.01).with_lambda2(0.01))
        .layer(LAYER, KeyStatistics::new(moment, Par::Seq).unwrap())
        .open(adapter, Par::Seq)
        .unwrap();
    assert!(session.edit(&[about("Big Ben")]).unwrap().is_applied());
    let again = session.adapter_mut().companions(LAYER, &requests).unwrap().unwrap();
    assert_eq!(again.keys, keys);
}

/// So that metrics on these facts do not measure what was written.
#[test]
fn no_contrast_subject_is_in_a_shipped_fact() {
    let facts = shipped::facts().unwrap();
    let texts = |fact: &Fact| {
        let near = fact.neighborhood_prompts().iter().map(|near| near.prompt().to_lowercase());
        near.chain([fact.full_prompt().to_lowercase()]).collect::<Vec<_>>()
    };
    let known = shipped::known();
    let all: Vec<String> =
        facts.iter().flat_map(texts).chain(known.iter().map(|known| known.prompt.to_lowercase())).collect();
    for name in NAMES.lines() {
        let name = name.to_lowercase();
        let name = name.strip_prefix("the ").unwrap_or(&name);
        let apart = |c: Option<char>| !c.is_some_and(char::is_alphanumeric);
        let inside = |text: &String| {
            text.match_indices(name)
                .any(|(at, _)| apart(text[..at].chars().next_back()) && apart(text[at + name.len()..].chars().next()))
        };
        assert_eq!(all.iter().find(|text| inside(text)), None, "{name}");
    }
}

#[test]
fn places_are_read_and_written_by_name() {
    for text in ["plain", "plain,context:1.5,answer:0.5", "answer:2,user"] {
        assert_eq!(text.parse::<Places>().unwrap().to_string(), text);
    }
    for (text, problem) in [("", "place of a fact"), ("plain,plain", "once"), ("plain:x", "weight"), ("plane", "plain")]
    {
        let refused = text.parse::<Places>().unwrap_err().to_string();
        assert!(refused.contains(problem), "{text}: {refused}");
    }
    assert!(Places::new([]).is_err() && Places::new([(Place::Plain, -1.0)]).is_err());
}

/// A question's chat is what the metrics ask: the lead, the prompt, and the template.
#[test]
fn a_chat_is_asked_as_the_metrics_ask() {
    use betaedit_core::facts::metrics::Setting;
    let (_, tokenizer) = opened();
    let asked = Setting::Chat.asked(&request().text());
    let rendered = tokenizer.render_chat(&[Message::new(Role::User, asked)]).unwrap();
    assert_eq!(rendered, format!("user: Complete the sentence: {}\nassistant: ", request().text()));
}
