//! Good files, changed a little at random.

/// splitmix64
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub fn one_of<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// A few random changes: of bits, of whole numbers in binary and in text, of length, of order.
pub fn mutated(random: &mut Random, good: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = random.one_of(good).clone();
    for _ in 0..=random.below(4) {
        if bytes.is_empty() {
            break;
        }
        let at = random.below(bytes.len());
        match random.below(9) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => bytes.truncate(at),
            3 => {
                let number =
                    *random.one_of(&[u64::MAX, 0, 1 << 62, 1 << 32, 1 << 40, 0x7FFF_FFFF, 100_000_000, 0xFFFF]);
                let width = *random.one_of(&[1, 2, 4, 8]);
                let end = (at + width).min(bytes.len());
                bytes[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
            }
            4 => {
                // A number in a text, in its width or another.
                let digits: Vec<_> = (0..bytes.len()).filter(|&i| bytes[i].is_ascii_digit()).collect();
                let Some(&start) = digits.get(random.below(digits.len())) else { continue };
                let end = (start..bytes.len()).find(|&i| !bytes[i].is_ascii_digit()).unwrap_or(bytes.len());
                let number =
                    *random.one_of(&["0", "1", "-1", "9", "4294967296", "18446744073709551615", "1e9", "99999999"]);
                if random.below(2) == 0 {
                    bytes.splice(start..end, number.bytes());
                    // The header of a safetensors file keeps its announced length.
                    if let Some(first) = bytes.first_chunk::<8>() {
                        let length = u64::from_le_bytes(*first).wrapping_add((number.len() + start) as u64);
                        bytes[..8].copy_from_slice(&length.wrapping_sub(end as u64).to_le_bytes());
                    }
                } else {
                    (start..end).zip(number.bytes()).for_each(|(i, digit)| bytes[i] = digit);
                }
            }
            5 => {
                let piece = bytes[at..(at + 1 + random.below(40)).min(bytes.len())].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, piece);
            }
            6 => {
                bytes.drain(at..(at + 1 + random.below(16)).min(bytes.len()));
            }
            7 => {
                let other = random.one_of(good);
                let from = random.below(other.len());
                bytes.truncate(at);
                bytes.extend(&other[from..]);
            }
            _ => {
                let to = random.below(bytes.len());
                bytes.swap(at, to);
            }
        }
    }
    bytes
}
