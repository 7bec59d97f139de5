//! A block of the decoder, and the batch of tokens that it runs on.

use std::sync::Arc;

use candle_core::{Device, Result as Computed, Tensor};
use faer::{Mat, MatRef, Par};

use super::config::{Arrangement, Config, Positions};
use super::ops::{Angles, Attention, Normalize, Op, Parameter, Past, Project, Rotate, Span, activate, with_rows};

/// What all blocks of a model share.
#[derive(Clone, Copy)]
pub(super) struct Frame<'a> {
    pub(super) config: &'a Config,
    pub(super) par: Par,
}

/// A matrix of the model, perhaps with a bias.
#[derive(Clone)]
pub(super) struct Linear {
    pub(super) weight: Arc<Parameter>,
    pub(super) bias: Option<Arc<[f32]>>,
    /// A low-rank change that is being learned.
    pub(super) low_rank: Option<LowRank>,
}

/// `scale B A`, on top of a matrix.
#[derive(Clone)]
pub(super) struct LowRank {
    /// `rank x inputs`.
    pub(super) A: Tensor,
    /// `outputs x rank`.
    pub(super) B: Tensor,
    pub(super) scale: f64,
}

/// One block.
#[derive(Clone)]
pub(super) struct Block {
    /// None where the attention reads the hidden state as it is.
    pub(super) attention_norm: Option<Normalize>,
    pub(super) query: Linear,
    pub(super) key: Linear,
    pub(super) value: Linear,
    /// Norms of the queries and of the keys, over every head or over all of them.
    pub(super) head_norms: Option<[Normalize; 2]>,
    pub(super) attention_output: Linear,
    /// The norm behind the attention.
    pub(super) attention_post_norm: Option<Normalize>,
    /// None where the MLP stands beside the attention and shares its norm, or reads the hidden state as it is.
    pub(super) mlp_norm: Option<Normalize>,
    pub(super) gate: Option<Linear>,
    pub(super) up: Linear,
    /// The matrix that edits change.
    pub(super) down: Linear,
    /// The norm behind the MLP.
    pub(super) mlp_post_norm: Option<Normalize>,
    /// How many tokens a token sees; `None` is all.
    pub(super) window: Option<usize>,
}

/// Sequences to run together: their rows one after the other, without padding.
#[derive(Clone)]
pub(super) struct TokenBatch {
    pub(super) spans: Arc<[Span]>,
    angles: Option<Arc<Angles>>,
    /// In layers with a window, where they differ.
    window_angles: Option<Arc<Angles>>,
}

/// A block up to its MLP's output projection, and what it takes to finish it.
#[derive(Clone)]
pub(super) struct Opened {
    /// Keys: the inputs of the output projection, a row a token.
    pub(super) keys: Tensor,
    /// What the MLP's output is added to.
    pub(super) residual: Tensor,
    /// Keys and values of the attention.
    attended: [Tensor; 2],
}

impl Linear {
    pub(super) fn forward(&self, x: &Tensor, par: Par) -> Computed<Tensor> {
        let y = x.apply_op1(Op(Project { weight: self.weight.clone(), bias: self.bias.clone(), par }))?;
        match &self.low_rank {
            None => Ok(y),
            Some(LowRank { A, B, scale }) => y + (x.matmul(&A.t()?)? * *scale)?.matmul(&B.t()?)?,
        }
    }
}

impl TokenBatch {
    /// The rows of some sequences. Each is given by the number of tokens before it and its own number of tokens.
    pub(super) fn new(config: &Config, sequences: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let mut rows = 0;
        let mut spans = vec![];
        for (start, tokens) in sequences {
            spans.push(Span { rows: rows..rows + tokens, start });
            rows += tokens;
        }
        let rotary = match &config.positions {
            Positions::Learned => None,
            Positions::Rotary(rotary) => Some(rotary),
        };
        let [angles, window_angles] = [rotary, config.window_rotary.as_ref()]
            .map(|rotary| rotary.map(|rotary| Arc::new(Angles::new(rotary, positions(&spans)))));
        Self { spans: spans.into(), angles, window_angles }
    }

    /// The angles of a layer with this window.
    fn angles(&self, window: Option<usize>) -> Option<&Arc<Angles>> {
        window.and(self.window_angles.as_ref()).or(self.angles.as_ref())
    }

    pub(super) fn rows(&self) -> usize {
        self.spans.last().map_or(0, |span| span.rows.end)
    }
}

pub(super) fn positions(spans: &[Span]) -> impl Iterator<Item = usize> {
    spans.iter().flat_map(|span| span.start..span.start + span.rows.len())
}

/// What a norm makes of rows, or the rows where there is none.
fn normalized(x: &Tensor, norm: Option<&Normalize>) -> Computed<Tensor> {
    norm.map_or_else(|| Ok(x.clone()), |norm| x.apply_op1(Op(norm.clone())))
}

/// Some rows of a matrix.
pub(super) fn select(x: &Tensor, rows: &[usize]) -> Computed<Tensor> {
    let rows: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
    x.index_select(&Tensor::new(rows, &Device::Cpu)?, 0)
}

/// Rows as columns.
pub(super) fn columns(x: &Tensor) -> Computed<Mat<f32>> {
    with_rows([x], |[x]| MatRef::from_column_major_slice(x.numbers, x.cols, x.count()).to_owned())
}

impl Block {
    /// Runs the block up to its MLP's output projection.
    pub(super) fn open(
        &self,
        frame: Frame<'_>,
        x: &Tensor,
        batch: &TokenBatch,
        past: Vec<Arc<Past>>,
    ) -> Computed<Opened> {
        let Frame { config, par } = frame;
        let h = normalized(x, self.attention_norm.as_ref())?;
        let v = self.value.forward(&h, par)?;
        let [q, k] = [(&self.query, 0), (&self.key, 1)].map(|(linear, which)| {
            let mut x = linear.forward(&h, par)?;
            if let Some(norms) = &self.head_norms {
                let (shape, norm) = (x.dims2()?, &norms[which]);
                x = x.reshape(((), norm.gain.len()))?.apply_op1(Op(norm.clone()))?.reshape(shape)?;
            }
            match batch.angles(self.window) {
                Some(angles) => x.apply_op1(Op(Rotate { angles: angles.clone(), head_dim: config.head_dim })),
                None => Ok(x),
            }
        });
        let (q, k) = (q?, k?);
        let attention = Attention {
            spans: batch.spans.clone(),
            past,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            scale: config.attention_scale.map_or_else(|| 1.0 / (config.head_dim as f32).sqrt(), |scale| scale as f32),
            cap: config.attention_cap.map(|cap| cap as f32),
            window: self.window,
            par,
        };
        let attended = q.apply_op3(&k, &v, Op(attention))?;
        let attended = self.attention_output.forward(&attended, par)?;
        let residual = (x + normalized(&attended, self.attention_post_norm.as_ref())?)?;
        let read = match config.arrangement {
            Arrangement::Sequential => normalized(&residual, self.mlp_norm.as_ref())?,
            Arrangement::ParallelNorms => normalized(x, self.mlp_norm.as_ref())?,
            Arrangement::Parallel => h,
        };
        let keys = self.keys(frame, &read)?;
        Ok(Opened { keys, residual, attended: [k, v] })
    }

    /// The block with another sum of its input and its attention's output. Where the MLP stands beside the attention, its keys stay.
    pub(super) fn shifted(&self, frame: Frame<'_>, opened: &Opened, residual: Tensor) -> Computed<Opened> {
        let keys = match frame.config.arrangement {
            Arrangement::Sequential => self.keys(frame, &normalized(&residual, self.mlp_norm.as_ref())?)?,
            Arrangement::Parallel | Arrangement::ParallelNorms => opened.keys.clone(),
        };
        Ok(Opened { keys, residual, attended: opened.attended.clone() })
    }

    /// The inputs of the MLP's output projection, from those of the MLP.
    fn keys(&self, frame: Frame<'_>, h: &Tensor) -> Computed<Tensor> {
        let (activation, par) = (frame.config.activation, frame.par);
        let up = self.up.forward(h, par)?;
        match &self.gate {
            Some(gate) => activate(activation, &gate.forward(h, par)?, Some(&up), par),
            None => activate(activation, &up, None, par),
        }
    }

    /// The output of the MLP's output projection.
    pub(super) fn mlp(&self, opened: &Opened, par: Par) -> Computed<Tensor> {
        self.down.forward(&opened.keys, par)
    }

    /// The block's output.
    pub(super) fn close(&self, opened: &Opened, par: Par) -> Computed<Tensor> {
        self.close_with(opened, &self.mlp(opened, par)?)
    }

    /// The block's output for some output of the MLP's output projection.
    pub(super) fn close_with(&self, opened: &Opened, mlp: &Tensor) -> Computed<Tensor> {
        &opened.residual + normalized(mlp, self.mlp_post_norm.as_ref())?
    }
}

impl Opened {
    /// The attention's keys and values of the first tokens of every sequence, so many as `kept` says, behind its past.
    pub(super) fn extended(
        &self,
        batch: &TokenBatch,
        past: Vec<Arc<Past>>,
        kept: &[usize],
    ) -> Computed<Vec<Arc<Past>>> {
        let [k, v] = &self.attended;
        with_rows([k, v], |[k, v]| {
            let mut past = past.into_iter();
            let extend = |(span, kept): (&Span, &usize)| {
                let mut past = past.next().map_or_else(Past::default, Arc::unwrap_or_clone);
                let part = span.rows.start * k.cols..(span.rows.start + kept) * k.cols;
                past.extend(&k.numbers[part.clone()], &v.numbers[part]);
                Arc::new(past)
            };
            batch.spans.iter().zip(kept).map(extend).collect()
        })
    }

    /// The rows of several, to be closed.
    pub(super) fn joined(all: &[&Self]) -> Computed<Self> {
        let join = |of: fn(&Self) -> &Tensor| Tensor::cat(&all.iter().map(|one| of(one)).collect::<Vec<_>>(), 0);
        Ok(Self {
            keys: join(|one| &one.keys)?,
            residual: join(|one| &one.residual)?,
            attended: [join(|one| &one.attended[0])?, join(|one| &one.attended[1])?],
        })
    }

    /// Some rows alone, to be closed.
    pub(super) fn rows(&self, rows: &[usize]) -> Computed<Self> {
        let [k, v] = &self.attended;
        Ok(Self {
            keys: select(&self.keys, rows)?,
            residual: select(&self.residual, rows)?,
            attended: [select(k, rows)?, select(v, rows)?],
        })
    }
}
