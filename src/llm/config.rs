//! The shape of a decoder.

use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
use crate::format::malformed;

/// The norm in front of attention, MLP and head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NormKind {
    /// `x / rms(x)`, with a gain.
    Rms,
    /// `x / rms(x)`, with a gain that is stored as its difference from 1.
    RmsFromOne,
    /// `(x - mean) / deviation`, with a gain and a bias.
    Layer,
}

/// How positions enter the model.
#[derive(Clone, Debug, PartialEq)]
pub enum Positions {
    /// A learned vector is added to the embedding.
    Learned,
    /// Queries and keys are rotated.
    Rotary(Rotary),
}

/// Rotary positions: pair `i` of the first `dims` numbers of a head is rotated by `position * theta^(-2i / dims)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotary {
    /// Base of the frequencies.
    pub theta: f64,
    /// How many numbers of a head are rotated; the others stay.
    pub dims: usize,
    /// Which numbers form a pair.
    pub pairing: Pairing,
    /// How the frequencies are scaled for long contexts.
    pub scaling: RotaryScaling,
}

/// Which numbers of a head form a pair that is rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// `i` and `i + dims / 2`.
    Halves,
    /// `2i` and `2i + 1`.
    Interleaved,
}

/// How rotary frequencies are scaled for long contexts.
#[derive(Clone, Debug, PartialEq)]
pub enum RotaryScaling {
    /// Not scaled.
    None,
    /// All frequencies are divided by a factor.
    Linear(f64),
    /// Llama 3: low frequencies are divided by `factor`, high ones stay, and those between are blended.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original_context / low` are low frequencies.
        low: f64,
        /// Wavelengths below `original_context / high` are high frequencies.
        high: f64,
        /// The context length before scaling.
        original_context: f64,
    },
    /// Dynamic NTK: the base grows with texts that are longer than the model's context. Such texts are not run, so nothing is scaled.
    Dynamic {
        /// Says how fast the base grows.
        factor: f64,
    },
    /// YaRN: low frequencies are divided by `factor`, high ones stay, those between are blended, and queries and keys are multiplied by
    /// `attention`.
    Yarn {
        /// Divisor of the low frequencies.
        factor: f64,
        /// A pair that turns more often than this in the original context keeps its frequency.
        fast: f64,
        /// A pair that turns less often than this in the original context has a low frequency.
        slow: f64,
        /// The context length before scaling.
        original_context: f64,
        /// Factor of the rotated parts of queries and keys.
        attention: f64,
    },
    /// `LongRoPE`: every frequency is divided by a factor of its own, and queries and keys are multiplied by `attention`.
    LongRope {
        /// The divisors in texts up to the original context, one for each pair.
        short: Arc<[f64]>,
        /// The divisors in longer texts. Such texts are not run: the [context](Config::context) is at most the original one.
        long: Arc<[f64]>,
        /// The context length before scaling.
        original_context: usize,
        /// The context length with the divisors of longer texts.
        longest_context: usize,
        /// Factor of the rotated parts of queries and keys.
        attention: f64,
    },
}

/// The nonlinearity of the MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x sigmoid(x)`.
    Silu,
    /// GELU in its tanh form (`gelu_new`).
    Gelu,
    /// GELU by the error function (`gelu`).
    GeluErf,
}

/// Whether the MLP of a block comes after the attention or beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrangement {
    /// The MLP reads the sum of input and attention, through a norm of its own.
    Sequential,
    /// The MLP reads what the attention reads, through the same norm.
    Parallel,
    /// The MLP reads what the attention reads, through a norm of its own.
    ParallelNorms,
}

/// How the MLP computes its keys from its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MlpKind {
    /// `f(G x) * (U x)`: two matrices.
    Gated,
    /// `f(U x)`: one matrix.
    Plain,
}

/// Norms inside the attention, on every head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadNorms {
    /// There are none.
    None,
    /// One for the heads of the queries and one for the heads of the keys, before the rotation.
    QueriesAndKeys,
    /// One over all heads of the queries together and one over all heads of the keys together, before the rotation.
    WholeQueriesAndKeys,
}

/// Where the norms of a block stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockNorms {
    /// In front of the attention and in front of the MLP.
    Before,
    /// Behind the attention and behind the MLP, before their outputs are added to the hidden state.
    After,
    /// In both places.
    BeforeAndAfter,
}

/// A sliding window: how many tokens a token sees, itself included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Number of tokens.
    pub tokens: usize,
    /// The layers without the window, whose tokens see all tokens before them.
    pub full: Vec<usize>,
}

/// Whether a projection adds a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// If the file has one.
    AsStored,
    /// It does. A file without the bias is refused.
    Required,
    /// It does not. A file with a bias is refused.
    Absent,
}

/// The biases of the projections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Biases {
    /// Of queries, keys and values.
    pub attention_inputs: Bias,
    /// Of the attention's output projection.
    pub attention_output: Bias,
    /// Of the projections of the MLP.
    pub mlp: Bias,
    /// Of the output head.
    pub head: Bias,
}

impl Biases {
    /// The same for all projections.
    #[must_use]
    pub fn all(bias: Bias) -> Self {
        Self { attention_inputs: bias, attention_output: bias, mlp: bias, head: bias }
    }
}

/// The sizes of a decoder that have no default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Number of blocks.
    pub layers: usize,
    /// Length of a hidden state.
    pub hidden: usize,
    /// Width of the MLP.
    pub intermediate: usize,
    /// Heads of the queries.
    pub heads: usize,
    /// Number of tokens in the vocabulary.
    pub vocabulary: usize,
    /// The longest context in tokens.
    pub context: usize,
}

/// The shape of a decoder: everything except the weights that a forward pass depends on.
///
/// Any combination of these fields can be run. In the configuration of a model that was read, [`biases`](Self::biases) and
/// [`tied`](Self::tied) say what the file holds.
///
/// ```
/// use betaedit_core::llm::{Config, Positions, Rotary, Sizes};
///
/// let sizes = Sizes { layers: 2, hidden: 16, intermediate: 32, heads: 4, vocabulary: 100, context: 64 };
/// let mut config = Config::new(sizes);
/// config.kv_heads = 2;
/// config.positions = Positions::Rotary(Rotary::new(500_000.0, config.head_dim));
/// assert_eq!(config.head_dim, 4);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// Number of blocks.
    pub layers: usize,
    /// Length of a hidden state, `d_out` of the edited matrices.
    pub hidden: usize,
    /// Width of the MLP, `d_in` of the edited matrices.
    pub intermediate: usize,
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values; a divisor of `heads`.
    pub kv_heads: usize,
    /// Length of a head.
    pub head_dim: usize,
    /// Number of tokens in the vocabulary.
    pub vocabulary: usize,
    /// The longest context in tokens.
    pub context: usize,
    /// The kind of norm.
    pub norm: NormKind,
    /// Added to the variance in a norm.
    pub norm_epsilon: f64,
    /// How positions enter.
    pub positions: Positions,
    /// Rotary positions of the layers with a window, if they differ from those of the other layers.
    pub window_rotary: Option<Rotary>,
    /// Factor of the embeddings.
    pub embedding_scale: f64,
    /// Where the norms of a block stand.
    pub block_norms: BlockNorms,
    /// Norms inside the attention.
    pub head_norms: HeadNorms,
    /// Factor of the products of queries and keys; `None` is `1 / sqrt(head_dim)`.
    pub attention_scale: Option<f64>,
    /// A bound `c` on these products: `x` becomes `c tanh(x / c)`. `None` is no bound.
    pub attention_cap: Option<f64>,
    /// A bound on the logits, in the same way.
    pub logit_cap: Option<f64>,
    /// Whether the MLP comes after the attention or beside it.
    pub arrangement: Arrangement,
    /// How the MLP computes its keys.
    pub mlp: MlpKind,
    /// The MLP's nonlinearity.
    pub activation: Activation,
    /// How many tokens a token sees; `None` is all.
    pub window: Option<Window>,
    /// Which projections add a bias.
    pub biases: Biases,
    /// Whether the output head is the embedding if a file has only one of them. If it has both and they differ, both are used.
    pub tied: bool,
}

impl Rotary {
    /// Rotary positions that pair halves, not scaled.
    #[must_use]
    pub fn new(theta: f64, dims: usize) -> Self {
        Self { theta, dims, pairing: Pairing::Halves, scaling: RotaryScaling::None }
    }

    /// Refuses what does not fit a head; `path` is for the message.
    fn check(&self, head_dim: usize, path: &Path) -> Result<()> {
        let pairs = self.dims / 2;
        let scaled = match &self.scaling {
            RotaryScaling::LongRope { short, long, .. } => {
                [short, long].iter().all(|factors| factors.len() == pairs && factors.iter().all(|factor| *factor > 0.0))
            }
            _ => true,
        };
        let fits = self.dims != 0 && self.dims <= head_dim && self.dims.is_multiple_of(2) && self.theta > 0.0;
        match fits && scaled {
            true => Ok(()),
            false => Err(malformed(path, format!("{self:?} does not fit a head of {head_dim}"))),
        }
    }
}

impl Config {
    /// A decoder of Llama's shape: RMS norms with epsilon `1e-6`, rotary positions with base `10000` over the whole head, a gated MLP
    /// with SiLU after the attention, as many heads of keys and values as of queries, the biases that are stored, and an output head of
    /// its own. Change the fields that differ.
    #[must_use]
    pub fn new(sizes: Sizes) -> Self {
        let Sizes { layers, hidden, intermediate, heads, vocabulary, context } = sizes;
        // Without heads there is no such length; the shape is refused when it is loaded.
        let head_dim = hidden.checked_div(heads).unwrap_or(0);
        Self {
            layers,
            hidden,
            intermediate,
            heads,
            kv_heads: heads,
            head_dim,
            vocabulary,
            context,
            norm: NormKind::Rms,
            norm_epsilon: 1e-6,
            positions: Positions::Rotary(Rotary::new(10_000.0, head_dim)),
            window_rotary: None,
            embedding_scale: 1.0,
            block_norms: BlockNorms::Before,
            head_norms: HeadNorms::None,
            attention_scale: None,
            attention_cap: None,
            logit_cap: None,
            arrangement: Arrangement::Sequential,
            mlp: MlpKind::Gated,
            activation: Activation::Silu,
            window: None,
            biases: Biases::all(Bias::AsStored),
            tied: false,
        }
    }

    /// Bounds the context to what the scaling of the rotary positions holds for.
    pub(super) fn fit_context(&mut self) {
        if let Positions::Rotary(Rotary { scaling: RotaryScaling::LongRope { original_context, .. }, .. }) =
            &self.positions
        {
            self.context = self.context.min(*original_context);
        }
    }

    /// How many tokens a token sees in a layer; `None` is all.
    pub(super) fn window_of(&self, layer: usize) -> Option<usize> {
        self.window.as_ref().filter(|window| !window.full.contains(&layer)).map(|window| window.tokens)
    }

    /// Refuses shapes that do not fit together; `path` is for the message.
    pub(super) fn check(&self, path: &Path) -> Result<()> {
        if self.heads == 0 {
            return Err(malformed(path, "no attention heads"));
        }
        let sizes = [self.layers, self.hidden, self.intermediate, self.kv_heads, self.head_dim];
        let empty = sizes.contains(&0) || self.vocabulary == 0 || self.context == 0;
        // Queries, keys and values side by side must have a size.
        let too_long = self.heads.checked_mul(self.head_dim).and_then(|q| q.checked_mul(3)).is_none();
        if empty || too_long || !self.heads.is_multiple_of(self.kv_heads) {
            return Err(malformed(path, format!("sizes that do not fit together: {self:?}")));
        }
        if self.window.as_ref().is_some_and(|window| window.tokens == 0) {
            return Err(malformed(path, "a sliding window of no token"));
        }
        let factors = [("embedding_scale", Some(self.embedding_scale)), ("attention_scale", self.attention_scale)];
        let bounds = [("attention_cap", self.attention_cap), ("logit_cap", self.logit_cap)];
        for (name, value) in factors.into_iter().chain(bounds) {
            if let Some(value) = value.filter(|value| !(*value > 0.0 && value.is_finite())) {
                return Err(malformed(path, format!("`{name}` is {value}, expected a positive number")));
            }
        }
        if self.arrangement != Arrangement::Sequential && self.block_norms != BlockNorms::Before {
            return Err(malformed(path, "an MLP beside the attention, with norms behind them"));
        }
        let rotary = match &self.positions {
            Positions::Rotary(rotary) => Some(rotary),
            Positions::Learned => None,
        };
        rotary.into_iter().chain(&self.window_rotary).try_for_each(|rotary| rotary.check(self.head_dim, path))
    }
}
