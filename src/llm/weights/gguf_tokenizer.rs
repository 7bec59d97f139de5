//! The tokenizer in a GGUF file, as llama.cpp reads it.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use candle_core::quantized::gguf_file::Value;
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer as Inner};

use super::pieces::Pieces;
use super::words::Words;
use crate::error::{Error, Result};
use crate::format::malformed;
use crate::llm::families::whole;
use crate::llm::tokenizer::{SpecialTokens, Tokenizer};
use crate::util::text::Quoted;

/// What every name here begins with.
const PREFIX: &str = "tokenizer.ggml.";

/// Types of tokens in GGUF files (`llama_token_type`).
const NORMAL: usize = 1;
const UNKNOWN: usize = 2;
const CONTROL: usize = 3;
const USER_DEFINED: usize = 4;

/// Tokens that llama.cpp knows by their text, whatever type the file gives them: they end a text or a turn.
const ENDS: [&str; 17] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
];

/// The special tokens of Phi-3 that leave the spaces behind them.
const PHI3_KEEPS: [&str; 3] = ["<unk>", "<s>", "<|endoftext|>"];

/// Reads the tokenizer of a file: `tokenizer.json` beside it, if that has the same vocabulary, or else the one inside.
pub(super) fn read(entries: &HashMap<String, Value>, path: &Path) -> Result<Tokenizer> {
    let stored = Stored { entries, path };
    let beside = path.with_file_name("tokenizer.json");
    let tokenizer = match beside.exists() {
        true => {
            let tokenizer = Tokenizer::open(&beside)?;
            stored.check_vocabulary(&tokenizer, &beside)?;
            stored.check_tokens(&tokenizer, &beside)?;
            tokenizer
        }
        false => Tokenizer::new(stored.tokenizer()?),
    };
    Ok(tokenizer.with_special(stored.special_tokens()?))
}

/// The entries about the tokenizer.
struct Stored<'a> {
    entries: &'a HashMap<String, Value>,
    path: &'a Path,
}

impl Stored<'_> {
    fn entry(&self, name: &str) -> Option<&Value> {
        self.entries.get(&format!("{PREFIX}{name}"))
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.entry(name)?.to_string().ok().map(String::as_str)
    }

    fn flag(&self, name: &str) -> Result<Option<bool>> {
        let Some(value) = self.entry(name) else { return Ok(None) };
        value.to_bool().map(Some).map_err(|_| self.refuse(format!("`{PREFIX}{name}` is neither true nor false")))
    }

    fn id(&self, name: &str) -> Result<Option<u32>> {
        let name = format!("{name}_token_id");
        let Some(value) = self.entry(&name) else { return Ok(None) };
        let id = whole(value).ok_or_else(|| self.refuse(format!("`{PREFIX}{name}` is not the number of a token")))?;
        // Files without such a token may have a number beyond the vocabulary.
        let known = self.entry("tokens").and_then(|tokens| tokens.to_vec().ok()).map_or(0, Vec::len);
        Ok(u32::try_from(id).ok().filter(|_| id < known))
    }

    fn texts(&self, name: &str) -> Result<Vec<&str>> {
        let wrong = || self.refuse(format!("`{PREFIX}{name}` is missing, or no list of texts"));
        let list = self.entry(name).and_then(|list| list.to_vec().ok()).ok_or_else(wrong)?;
        list.iter().map(|text| text.to_string().map(String::as_str).map_err(|_| wrong())).collect()
    }

    /// The types of the tokens.
    fn types(&self) -> Option<Vec<usize>> {
        self.entry("token_type")?.to_vec().ok()?.iter().map(whole).collect()
    }

    fn refuse(&self, problem: impl std::fmt::Display) -> Error {
        malformed(self.path, format!("{problem}; put the model's tokenizer.json beside the file"))
    }

    fn words(&self) -> Result<Words> {
        let name = self.text("pre").ok_or_else(|| {
            self.refuse(
                "the file does not say how its tokenizer cuts text into words (`tokenizer.ggml.pre` is missing)",
            )
        })?;
        Words::of(name)
            .ok_or_else(|| self.refuse(format!("`tokenizer.ggml.pre` is `{name}`, a kind that is not known here")))
    }

    fn tokenizer(&self) -> Result<Inner> {
        let tokens = self.texts("tokens")?;
        let (mut inner, usual_bos) = match self.text("model") {
            Some("gpt2") => (self.byte_level(&tokens)?, self.words()?.starts_with_bos()),
            Some("llama") => (self.sentence_pieces(&tokens)?, true),
            other => {
                let found = other.unwrap_or("missing");
                let problem = format!("`tokenizer.ggml.model` is {found}, and only `gpt2` and `llama` are supported");
                return Err(self.refuse(problem));
            }
        };
        inner.add_tokens(self.added(&tokens)?).map_err(|error| self.unusable(&error))?;
        let adds =
            |name, default: bool| -> Result<bool> { Ok(self.flag(&format!("add_{name}_token"))?.unwrap_or(default)) };
        let (bos, eos) = (adds("bos", usual_bos)?, adds("eos", false)?);
        if bos || eos {
            inner.with_post_processor(Some(self.template(&tokens, bos, eos)?));
        }
        Ok(inner)
    }

    fn unusable(&self, error: &tokenizers::Error) -> Error {
        self.refuse(format!("the file's tokenizer cannot be used ({error})"))
    }

    fn byte_level(&self, tokens: &[&str]) -> Result<Inner> {
        let words = self.words()?;
        let vocabulary: Vocab = tokens.iter().zip(0..).map(|(&token, id)| (token.to_owned(), id)).collect();
        let pair = |merge: &&str| merge.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned()));
        let merges: Option<Merges> = self.texts("merges")?.iter().map(pair).collect();
        let merges = merges.ok_or_else(|| self.refuse("`tokenizer.ggml.merges` has an entry that is no pair"))?;
        let model = BPE::builder().vocab_and_merges(vocabulary, merges).ignore_merges(words.keeps_whole_words());
        let mut inner = Inner::new(model.build().map_err(|error| self.unusable(&error))?);
        inner.with_pre_tokenizer(Some(
            words.pre_tokenizer().ok_or_else(|| self.refuse("the kind of words cannot be built"))?,
        ));
        inner.with_decoder(Some(ByteLevelDecoder::new(false, false, false)));
        Ok(inner)
    }

    /// A tokenizer of the kind of SentencePiece.
    fn sentence_pieces(&self, tokens: &[&str]) -> Result<Inner> {
        if self.entry("precompiled_charsmap").is_some() {
            return Err(self.refuse("`tokenizer.ggml.precompiled_charsmap` is not supported"));
        }
        let types = self.types_of(tokens)?;
        let scores =
            self.entry("scores").and_then(|list| list.to_vec().ok()?.iter().map(|x| x.to_f32().ok()).collect());
        let scores: Vec<f32> = scores.unwrap_or_default();
        if scores.len() != tokens.len() || scores.iter().any(|score| score.is_nan()) {
            return Err(self.refuse("`tokenizer.ggml.scores` does not give a score for each token"));
        }
        // Control tokens and bytes are no parts of words.
        let words = types.iter().map(|kind| [NORMAL, USER_DEFINED].contains(kind));
        let pieces = Pieces { tokens, scores: &scores, words: words.collect() };
        let unknown = types.iter().position(|kind| *kind == UNKNOWN).map(|id| tokens[id]);
        let space = self.flag("add_space_prefix")?.unwrap_or(true);
        pieces.tokenizer(unknown, space).map_err(|error| self.unusable(&error))
    }

    /// The types of the tokens, one a token.
    fn types_of(&self, tokens: &[&str]) -> Result<Vec<usize>> {
        let types = self.types().filter(|types| types.len() == tokens.len());
        types.ok_or_else(|| self.refuse("`tokenizer.ggml.token_type` does not give a type for each token"))
    }

    /// The tokens that are found in a text before it is cut into words. Those for control are special: they are no text.
    fn added(&self, tokens: &[&str]) -> Result<Vec<AddedToken>> {
        let strips = self.strips_behind();
        let special = |token: &str| AddedToken::from(token, true).rstrip(strips && !PHI3_KEEPS.contains(&token));
        let added = tokens.iter().zip(self.types_of(tokens)?).filter_map(|(&token, kind)| match kind {
            _ if ENDS.contains(&token) => Some(special(token)),
            CONTROL | UNKNOWN => Some(special(token)),
            USER_DEFINED => Some(AddedToken::from(token, false).normalized(false)),
            _ => None,
        });
        Ok(added.collect())
    }

    /// Whether special tokens take the spaces behind them: llama.cpp knows such models by their name.
    fn strips_behind(&self) -> bool {
        let name = self.entries.get("general.name").and_then(|name| name.to_string().ok());
        let name = name.map(|name| name.to_lowercase()).unwrap_or_default();
        ["phi-3", "phi3"].iter().any(|part| name.contains(part))
    }

    fn template(&self, tokens: &[&str], bos: bool, eos: bool) -> Result<TemplateProcessing> {
        let token = |wanted: bool, name: &str| -> Result<Option<(String, u32)>> {
            let found = self.id(name)?.and_then(|id| Some(((*tokens.get(id as usize)?).to_owned(), id)));
            match (wanted, found) {
                (false, _) => Ok(None),
                (true, None) => {
                    Err(self.refuse(format!("every text has a {name} token, but `{PREFIX}{name}_token_id` names none")))
                }
                (true, found) => Ok(found),
            }
        };
        let (bos, eos) = (token(bos, "bos")?, token(eos, "eos")?);
        let name = |token: &Option<(String, u32)>| token.iter().map(|(text, _)| text.clone()).collect::<Vec<_>>();
        let single = [name(&bos), vec!["$A".to_owned()], name(&eos)].concat();
        let specials: Vec<(String, u32)> = bos.into_iter().chain(eos).collect();
        let failed = |error: String| self.refuse(format!("the file's special tokens cannot be used ({error})"));
        let builder =
            TemplateProcessing::builder().try_single(single).map_err(failed)?.special_tokens(specials).build();
        builder.map_err(|error| failed(error.to_string()))
    }

    /// Refuses another vocabulary than that of this file.
    fn check_vocabulary(&self, tokenizer: &Tokenizer, beside: &Path) -> Result<()> {
        let (tokens, types) = (self.texts("tokens")?, self.types().unwrap_or_default());
        for (id, &here) in (0_u32..).zip(&tokens) {
            let is_normal = types.get(id as usize).is_none_or(|&kind| kind == NORMAL);
            let there = tokenizer.token(id);
            // The conversion may write other tokens in another form.
            if is_normal && there.as_deref() != Some(here) {
                let there = there.map_or("nothing".to_owned(), |there| format!("`{there}`"));
                let file = self.path.display();
                return Err(malformed(
                    beside,
                    format!(
                        "this is the tokenizer of another model than {file}: token {id} is {there} here, `{here}` there; remove it, or put the right one in its place"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Refuses a tokenizer that cuts texts otherwise than the one inside, if that can be told.
    fn check_tokens(&self, tokenizer: &Tokenizer, beside: &Path) -> Result<()> {
        const PROBES: [&str; 5] = [
            "The Eiffel Tower is in Paris, isn't it? They've built it in 1889.",
            "naïve Straße café, ΑΒΓ абв 東京タワー 서울 한국 กรุงเทพ मुंबई 12345 1,234.5",
            "  two  spaces\tand\n\nlines \r\n end ",
            "fn main() { println!(\"{}\", a_b != c->d); } // ok",
            "UPPER Lower ’quoted’ “text” … 😀👍🏽 ½²",
        ];
        // What is not understood inside cannot be compared.
        let Ok(inside) = self.tokenizer().map(Tokenizer::new) else { return Ok(()) };
        for probe in PROBES {
            if inside.encode(probe)? != tokenizer.encode(probe)? {
                let (file, probe) = (self.path.display(), Quoted(probe));
                let problem = format!(
                    "this cuts {probe} into other tokens than the tokenizer in {file}, which llama.cpp uses: remove one of them"
                );
                return Err(malformed(beside, problem));
            }
        }
        Ok(())
    }

    /// The tokens at the ends of a text, and the chat template. A text ends at the tokens that the file names, and at those that llama.cpp
    /// knows by their text.
    fn special_tokens(&self) -> Result<SpecialTokens> {
        let mut ends = vec![];
        for name in ["eos", "eot", "eom"] {
            ends.extend(self.id(name)?);
        }
        let tokens = self.texts("tokens").unwrap_or_default();
        ends.extend(tokens.iter().zip(0_u32..).filter(|(token, _)| ENDS.contains(token)).map(|(_, id)| id));
        let mut seen = BTreeSet::new();
        ends.retain(|id| seen.insert(*id));
        let chat_template =
            self.entries.get("tokenizer.chat_template").and_then(|text| Some(text.to_string().ok()?.clone()));
        Ok(SpecialTokens { bos: self.id("bos")?, ends, chat_template, named: vec![] })
    }
}
