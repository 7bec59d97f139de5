//! A regression in a file, bit for bit.
//!
//! The kind of the file, the sizes, the engine, the weight, the samples, and a BLAKE3 hash of all that.

use std::io::{Read, Write};
use std::path::Path;

use faer::Par;

use super::ledger::Ledger;
use super::state::RidgeState;
use super::{Ridge, Samples};
use crate::engine::InverseGram;
use crate::error::Result;
use crate::util::bytes;
use crate::util::sealed::{self, Contents};

/// The kind of file, and the version of its layout.
const KIND: [u8; 17] = *b"betaedit.ridge.1\n";

impl Ridge {
    /// Writes the regression to a file, from which it continues with the same bits.
    ///
    /// The file is written completely or not at all.
    ///
    /// # Errors
    /// A path that cannot be written.
    ///
    /// # Examples
    /// ```
    /// use betaedit_core::faer::{Par, mat};
    /// use betaedit_core::ridge::Ridge;
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("ridge");
    /// let mut ridge = Ridge::new(2, 1, 0.1, Par::Seq)?;
    /// ridge.fit(mat![[1.0, 0.0], [0.5, 1.0]].as_ref(), mat![[1.0, -1.0]].as_ref())?;
    /// ridge.write(&path)?;
    /// let read = Ridge::read(&path, Par::Seq)?;
    /// assert_eq!((read.weight(), read.samples()), (ridge.weight(), 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        sealed::write(path.as_ref(), &[&KIND], |out| self.save(out))
    }

    /// Reads a regression that [`write`](Self::write) wrote.
    ///
    /// # Errors
    /// A file that cannot be read, is not of this kind, or is damaged.
    pub fn read(path: impl AsRef<Path>, par: Par) -> Result<Self> {
        let path = path.as_ref();
        let of_kind = |head: &[u8]| match head == KIND {
            true => Ok(()),
            false => Err("not a regression that `Ridge::write` wrote".to_owned()),
        };
        let (_, mut contents) = sealed::open::<{ KIND.len() }>(path, of_kind)?;
        let ridge = Self::load(&mut contents, par).map_err(sealed::unreadable(path))?;
        sealed::check_end(path, &contents)?;
        Ok(ridge)
    }

    fn save(&self, out: &mut dyn Write) -> bytes::Result<()> {
        bytes::write_len(out, self.d_in())?;
        bytes::write_len(out, self.d_out())?;
        bytes::write_f64(out, self.gamma)?;
        self.inverse_gram().save(out)?;
        bytes::write_matrix(out, self.weight())?;
        self.ledger.save(out)
    }

    fn load(from: &mut Contents, par: Par) -> bytes::Result<Self> {
        // Neither size can exceed what the file holds, so nothing is allocated for sizes that it only claims.
        let most = from.limit() as usize / 4;
        let d_in = bytes::read_len(from, most)?;
        let d_out = bytes::read_len(from, most)?;
        if d_in.saturating_mul(d_in.max(d_out)) > most {
            return Err(bytes::invalid("the sizes are larger than the file"));
        }
        let gamma = bytes::read_f64(from)?;
        let refused = |error: crate::error::NumericsError| bytes::invalid(&error.to_string());
        let mut Q = InverseGram::isotropic(d_in, gamma, par).map_err(refused)?;
        Q.load(from)?;
        let W = bytes::read_matrix(from, d_out, d_in)?;
        let ledger = Ledger::load(from, d_in, d_out)?;
        Ok(Self { gamma, state: RidgeState::from_parts(Q, W), ledger, par })
    }
}

impl Ledger {
    fn save(&self, out: &mut dyn Write) -> bytes::Result<()> {
        bytes::write_u64(out, u64::from(self.samples() == Samples::Kept))?;
        bytes::write_u64(out, self.fitted())?;
        bytes::write_len(out, self.len())?;
        for (number, checksum, x, y) in self.iter() {
            bytes::write_u64(out, number)?;
            out.write_all(&checksum.to_le_bytes())?;
            if self.samples() == Samples::Kept {
                bytes::write_numbers(out, x.iter().copied())?;
                bytes::write_slice(out, y)?;
            }
        }
        Ok(())
    }

    fn load(from: &mut Contents, d_in: usize, d_out: usize) -> bytes::Result<Self> {
        let samples = if bytes::read_u64(from)? == 0 { Samples::Recognised } else { Samples::Kept };
        let fitted = bytes::read_u64(from)?;
        let mut ledger = Self::new(samples);
        let mut next = 0;
        let most = from.limit() as usize;
        for _ in 0..bytes::read_len(from, most)? {
            let number = bytes::read_u64(from)?;
            if number < next || number >= fitted {
                return Err(bytes::invalid("the numbers of the samples are out of order"));
            }
            next = number + 1;
            let mut checksum = [0; 16];
            from.read_exact(&mut checksum)?;
            let (mut x, mut y) = (vec![], vec![]);
            if samples == Samples::Kept {
                x = vec![0.0; d_in];
                bytes::read_numbers(from, &mut x)?;
                y = bytes::read_slice(from, 1)?;
                if y.len() > d_out {
                    return Err(bytes::invalid("a sample has too many outputs"));
                }
            }
            ledger.insert(number, u128::from_le_bytes(checksum), x.into(), y.into());
        }
        ledger.skip_to(fitted);
        Ok(ledger)
    }
}
