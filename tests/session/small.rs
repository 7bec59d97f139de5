//! Sessions of a model so small that thousands are opened in a second, and their journals.

use std::path::{Path, PathBuf};

use betaedit_core::editor::NamedRecipe;
use betaedit_core::faer::{Mat, MatMut, MatRef, Par};
use betaedit_core::session::{EditId, Guards, Session, SessionBuilder};
use betaedit_core::{
    Adapter, BetaEdit, KeyStatistics, Method, Orientation, Refresh, RefreshRule, Result, SecondMoment, Threshold,
    Update,
};

const D_IN: usize = 4;
const D_OUT: usize = 2;
const LAYERS: [usize; 2] = [0, 1];

/// Undone directly, and by playing the journal again.
const REFRESHES: [Refresh; 2] =
    [Refresh::Never, Refresh::Every { edits: 3, rule: RefreshRule::Nested { weight: 1e-4 } }];

/// Two layers; key and target of a request are made from its number.
pub struct Small {
    weights: [Mat<f64>; 2],
}

impl Small {
    fn new() -> Self {
        Self { weights: LAYERS.map(|_| Mat::zeros(D_OUT, D_IN)) }
    }

    fn numbers(rows: usize, requests: &[u64]) -> Mat<f64> {
        Mat::from_fn(rows, requests.len(), |i, j| (requests[j] as f64 * 1.7 + i as f64).sin())
    }
}

impl Adapter for Small {
    type Scalar = f64;
    type Request = u64;

    fn layers(&self) -> &[usize] {
        &LAYERS
    }

    fn weight_shape(&self, _: usize) -> Result<(usize, usize)> {
        Ok((D_OUT, D_IN))
    }

    fn keys(&mut self, _: usize, requests: &[u64]) -> Result<Mat<f64>> {
        Ok(Self::numbers(D_IN, requests))
    }

    fn residuals(&mut self, layer: usize, requests: &[u64]) -> Result<Mat<f64>> {
        Ok(Self::numbers(D_OUT, requests) - &self.weights[layer] * Self::numbers(D_IN, requests))
    }

    fn read_weight(&self, layer: usize, mut weight: MatMut<'_, f64>) -> Result<()> {
        weight.copy_from(&self.weights[layer]);
        Ok(())
    }

    fn write_weight(&mut self, layer: usize, weight: MatRef<'_, f64>) -> Result<()> {
        self.weights[layer].copy_from(weight);
        Ok(())
    }

    fn fingerprint(&self) -> String {
        "small".into()
    }

    fn subject(&self, request: &u64) -> Option<String> {
        request.is_multiple_of(2).then(|| (request / 4).to_string())
    }

    fn apply(&mut self, layer: usize, update: &Update<f64>) -> Result<()> {
        Ok(update.apply_to(self.weights[layer].as_mut(), Orientation::OutputsByInputs, Par::Seq)?)
    }
}

/// Folders of sessions, one for each kind of refresh, with a journal that can be exchanged.
pub struct Journals {
    folder: PathBuf,
    statistics: KeyStatistics,
    /// What every journal of the session begins with.
    starts: Vec<Vec<u8>>,
}

impl Journals {
    pub fn new(folder: &Path) -> Self {
        let keys = Mat::from_fn(D_IN, 40, |i, j| (1.0 + (i * 3 + j * 7) as f64).sin() / (1 << i) as f64);
        let mut moment = SecondMoment::new(D_IN);
        moment.observe(keys.as_ref(), Par::Seq).unwrap();
        let mut journals = Self {
            folder: folder.to_owned(),
            statistics: KeyStatistics::new(moment, Par::Seq).unwrap(),
            starts: Vec::new(),
        };
        for kind in 0..REFRESHES.len() {
            drop(journals.session(kind).unwrap());
            journals.starts.push(std::fs::read(journals.journal(kind)).unwrap());
        }
        journals
    }

    fn journal(&self, kind: usize) -> PathBuf {
        self.folder.join(kind.to_string()).join("journal")
    }

    fn session(&self, kind: usize) -> Result<Session<Small>> {
        let method = BetaEdit::default().with_lambda1(0.1).with_lambda2(0.1).with_threshold(Threshold::Directions(3));
        let recipe = method.with_refresh(REFRESHES[kind]).recipe();
        let builder = SessionBuilder::new(NamedRecipe::new("betaedit", recipe)).snapshot_every(usize::MAX);
        let builder = builder.guards(Guards::default().with_update_norm(10.0));
        LAYERS
            .into_iter()
            .fold(builder, |builder, layer| builder.layer(layer, self.statistics.clone()))
            .directory(self.folder.join(kind.to_string()))
            .open(Small::new(), Par::Seq)
            .map_err(Into::into)
    }

    /// Kinds and records of good journals: a byte for the kind, then what follows the start.
    pub fn good(&self) -> Vec<Vec<u8>> {
        let good = |kind: usize| {
            std::fs::write(self.journal(kind), &self.starts[kind]).unwrap();
            let mut session = self.session(kind).unwrap();
            let mut seeds = Vec::new();
            let mut seed = || {
                let journal = std::fs::read(self.journal(kind)).unwrap();
                seeds.push([&[kind as u8], &journal[self.starts[kind].len()..]].concat());
            };
            session.edit(&[1]).unwrap().applied().unwrap();
            seed();
            session.edit(&[3, 4, 6]).unwrap().applied().unwrap();
            session.undo(&[EditId(0)]).unwrap();
            seed();
            session.replace(&[EditId(1)], &[9]).unwrap().applied().unwrap();
            session.edit(&[11, 13]).unwrap().applied().unwrap();
            seed();
            seeds
        };
        (0..REFRESHES.len()).flat_map(good).collect()
    }

    /// Opens a session on these records as they are, and on the same with the checks put right, so that what is inside is
    /// read. Returns whether any was taken.
    ///
    /// One that is taken has finite weights, can go on, and comes to the same numbers when it is opened again.
    pub fn check(&self, bytes: &[u8]) -> bool {
        let Some((&kind, records)) = bytes.split_first() else { return false };
        let kind = usize::from(kind) % REFRESHES.len();
        let taken = [records.to_vec(), sealed(&self.starts[kind], records)].map(|records| {
            std::fs::write(self.journal(kind), [&self.starts[kind], &records[..]].concat()).unwrap();
            let Ok(mut session) = self.session(kind) else { return false };
            let _ = session.edit(&[5]);
            let (processed, weights) = (session.processed(), session.into_adapter().weights);
            assert!(weights.iter().all(|weight| weight.norm_max().is_finite()));
            let again = self.session(kind).unwrap();
            assert_eq!((again.processed(), again.into_adapter().weights), (processed, weights));
            true
        });
        taken.contains(&true)
    }
}

/// Records with checks that are right, whatever is in them: see the layout in `docs/sessions.md`.
fn sealed(start: &[u8], records: &[u8]) -> Vec<u8> {
    let mut sealed = records.to_vec();
    let (mut check, mut at) = (start.last_chunk::<16>().unwrap().to_owned(), 0);
    while let Some(&head) = sealed[at..].first_chunk::<9>() {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&check).update(&head);
        let payload = at + 17;
        let length = u64::from_le_bytes(*head.first_chunk().unwrap());
        let end = usize::try_from(length).ok().and_then(|length| payload.checked_add(length));
        let Some(end) = end.filter(|end| end.saturating_add(16) <= sealed.len()) else { break };
        sealed[at + 9..payload].copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        check.copy_from_slice(&hasher.update(&sealed[payload..end]).finalize().as_bytes()[..16]);
        sealed[end..end + 16].copy_from_slice(&check);
        at = end + 16;
    }
    sealed
}
