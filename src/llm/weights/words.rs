//! How byte-level tokenizers cut a text into words: the groups of llama.cpp (`llama-vocab.cpp`).

use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

/// A way to cut a text into words.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Words {
    Default,
    Falcon,
    Gpt2,
    SmolLm,
    Llama3,
    Dbrx,
    Qwen2,
    Gpt4o,
    Tekken,
}

impl Words {
    /// By the name in `tokenizer.ggml.pre`.
    pub(super) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "default" => Self::Default,
            "falcon" => Self::Falcon,
            "gpt-2" | "phi-2" | "jina-es" | "jina-de" | "jina-v2-es" | "jina-v2-de" | "gigachat" | "a.x-4.0"
            | "mellum" | "olmo" | "mpt" | "jais" | "trillion" => Self::Gpt2,
            "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b" => Self::SmolLm,
            "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2" => {
                Self::Llama3
            }
            "dbrx" | "smaug-bpe" => Self::Dbrx,
            "qwen2" | "deepseek-r1-qwen" | "kormo" | "stablelm2" | "hunyuan" | "megrez" => Self::Qwen2,
            "gpt-4o" | "llama4" => Self::Gpt4o,
            "tekken" => Self::Tekken,
            _ => return None,
        })
    }

    /// Whether texts start with a token of their own unless the file says otherwise.
    pub(super) fn starts_with_bos(self) -> bool {
        matches!(self, Self::Llama3 | Self::Tekken)
    }

    /// Whether a word of the vocabulary is one token, whatever the merges give.
    pub(super) fn keeps_whole_words(self) -> bool {
        matches!(self, Self::Llama3 | Self::Tekken)
    }

    /// The patterns that are applied one after the other.
    fn patterns(self) -> Vec<String> {
        const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";
        const SHORT: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])";
        let modern = |digits: &str| {
            format!(
                r"{SHORT}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            )
        };
        // Words begin at capital letters; `short` is what may follow one.
        let by_case = |short: &str, digits: &str| {
            let (upper, lower) = (r"((?=[\p{L}])([^a-z]))", r"((?=[\p{L}])([^A-Z]))");
            let before = r"[^\r\n\p{L}\p{N}]?";
            let ends = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
            format!("{before}{upper}*{lower}+{short}|{before}{upper}+{lower}*{short}|{digits}|{ends}")
        };
        match self {
            Self::Default => [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"].map(str::to_owned).to_vec(),
            Self::Falcon => [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"].map(str::to_owned).to_vec(),
            Self::Gpt2 => vec![GPT2.to_owned()],
            Self::SmolLm => vec![r"\p{N}".to_owned(), GPT2.to_owned()],
            Self::Llama3 | Self::Dbrx => vec![modern(r"\p{N}{1,3}")],
            Self::Qwen2 => vec![modern(r"\p{N}")],
            Self::Gpt4o => vec![by_case(&format!("{SHORT}?"), r"\p{N}{1,3}")],
            Self::Tekken => vec![by_case("", r"\p{N}")],
        }
    }

    pub(super) fn pre_tokenizer(self) -> Option<PreTokenizerWrapper> {
        let split = |pattern: String| Split::new(SplitPattern::Regex(pattern), SplitDelimiterBehavior::Isolated, false);
        let mut steps = (self.patterns().into_iter())
            .map(|pattern| Some(split(pattern).ok()?.into()))
            .collect::<Option<Vec<PreTokenizerWrapper>>>()?;
        steps.push(ByteLevel::new(false, false, false).into());
        Some(Sequence::new(steps).into())
    }
}
