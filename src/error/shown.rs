//! Numbers in messages: as many digits as a reader needs.

use std::fmt;

/// A number with four significant digits. A number that would round to a whole one, and is not whole, has all its
/// digits: it may be just outside a bound.
pub(crate) struct Short(pub(crate) f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let x = self.0;
        let size = x.abs();
        if x == 0.0 || !x.is_finite() || (x.fract() == 0.0 && size < 1e6) {
            return write!(f, "{x}");
        }
        let scientific = format!("{x:.3e}");
        let Some((digits, exponent)) = scientific.split_once('e') else { return f.write_str(&scientific) };
        if !(1e-3..1e6).contains(&size) {
            return write!(f, "{}e{exponent}", without_zeros(digits));
        }
        let exponent: i32 = exponent.parse().unwrap_or(0);
        let plain = format!("{x:.*}", usize::try_from(3 - exponent).unwrap_or(0));
        match without_zeros(&plain) {
            whole if !whole.contains('.') && size < 1e3 => write!(f, "{x}"),
            short => f.write_str(short),
        }
    }
}

/// An error with its causes, each behind a colon. Some print a cause themselves: it is not repeated.
pub(crate) struct Causes<'a>(pub(crate) &'a (dyn std::error::Error + 'static));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            if !said.contains(&text) {
                write!(f, ": {text}")?;
                said += &text;
            }
            next = cause.source();
        }
        Ok(())
    }
}

fn without_zeros(digits: &str) -> &str {
    if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits }
}

/// A number of bytes in a readable unit. `usize::MAX` stands for more than can be addressed.
pub(crate) struct Bytes(pub(crate) usize);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == usize::MAX {
            return f.write_str("more memory than can be addressed");
        }
        let mut size = self.0 as f64;
        if size < 1000.0 {
            return write!(f, "{} bytes", self.0);
        }
        for unit in ["kB", "MB", "GB", "TB", "PB"] {
            size /= 1000.0;
            // From here on, one digit after the point would round up to the next unit.
            if size < 999.95 {
                return write!(f, "{size:.1} {unit}");
            }
        }
        write!(f, "{:.1} EB", size / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_four_digits_unless_they_may_be_at_a_bound() {
        let cases = [
            (0.0, "0"),
            (-3.0, "-3"),
            (0.1 + 0.2, "0.3"),
            (-2.0 / 3.0, "-0.6667"),
            (1234.567, "1235"),
            (12.345678, "12.35"),
            (123_456.0, "123456"),
            (1.0 / 3.0 * 1e-7, "3.333e-8"),
            (2e300, "2e300"),
            (18_446_744_073_709_551_615.0, "1.845e19"),
            (1.000_000_000_000_000_2, "1.0000000000000002"),
            (0.999_999_999, "0.999999999"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-inf"),
        ];
        for (number, text) in cases {
            assert_eq!(Short(number).to_string(), text);
        }
    }

    #[test]
    fn bytes_have_a_readable_unit() {
        let cases = [
            (0, "0 bytes"),
            (999, "999 bytes"),
            (1000, "1.0 kB"),
            (1_644_167_168, "1.6 GB"),
            (999_949_999_999_999, "999.9 TB"),
            (999_950_000_000_000, "1.0 PB"),
            (2_400_000_000_000_000, "2.4 PB"),
            (usize::MAX - 1, "18.4 EB"),
            (usize::MAX, "more memory than can be addressed"),
        ];
        for (bytes, text) in cases {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }
}
