//! Tokenizers of the kind of SentencePiece, as llama.cpp reads them: words grow from characters by joining the two neighbours whose
//! joint piece has the highest score, and what is in no piece is written in bytes.

use std::collections::HashSet;

use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{NormalizerWrapper, Prepend, Replace, Sequence};
use tokenizers::{Result, Tokenizer};

/// What stands for a space in a piece.
const SPACE: &str = "▁";

/// A vocabulary with scores.
pub(super) struct Pieces<'a> {
    pub(super) tokens: &'a [&'a str],
    /// One a token.
    pub(super) scores: &'a [f32],
    /// Whether a token is a part of words, one a token.
    pub(super) words: Vec<bool>,
}

impl Pieces<'_> {
    /// * `unknown`: the token for what has no bytes in the vocabulary
    /// * `space`: whether a space is put in front of every text
    pub(super) fn tokenizer(&self, unknown: Option<&str>, space: bool) -> Result<Tokenizer> {
        let vocabulary: Vocab = self.tokens.iter().zip(0..).map(|(&token, id)| (token.to_owned(), id)).collect();
        let mut model = BPE::builder().vocab_and_merges(vocabulary, self.merges()).byte_fallback(true).fuse_unk(true);
        if let Some(unknown) = unknown {
            model = model.unk_token(unknown.to_owned());
        }
        let mut inner = Tokenizer::new(model.build()?);
        let spaces: NormalizerWrapper = Replace::new(" ", SPACE)?.into();
        let normalizer = match space {
            true => Sequence::new(vec![Prepend::new(SPACE.to_owned()).into(), spaces]).into(),
            false => spaces,
        };
        inner.with_normalizer(Some(normalizer))?;
        let mut decoders: Vec<DecoderWrapper> =
            vec![Replace::new(SPACE, " ")?.into(), ByteFallback::new().into(), Fuse::new().into()];
        if space {
            decoders.push(Strip::new(' ', 1, 0).into());
        }
        inner.with_decoder(Some(Decoders::new(decoders)));
        Ok(inner)
    }

    /// All ways to join two pieces to a third, those with the highest score first.
    fn merges(&self) -> Merges {
        let pieces = self.tokens.iter().zip(&self.words).filter(|(_, word)| **word);
        let known: HashSet<&str> = pieces.map(|(&token, _)| token).collect();
        let mut merges: Vec<(f32, &str, &str)> = vec![];
        for ((&token, &score), _) in self.tokens.iter().zip(self.scores).zip(&self.words).filter(|(_, word)| **word) {
            let parts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
            let parts = parts.filter(|(left, right)| known.contains(left) && known.contains(right));
            merges.extend(parts.map(|(left, right)| (score, left, right)));
        }
        let length = |text: &str| text.chars().count();
        merges.sort_by(|(a, a_left, a_right), (b, b_left, b_right)| {
            let by_length = length(b_left).cmp(&length(a_left)).then(length(b_right).cmp(&length(a_right)));
            b.total_cmp(a).then(by_length)
        });
        merges.into_iter().map(|(_, left, right)| (left.to_owned(), right.to_owned())).collect()
    }
}
