//! The date and the time of day, for chat templates that tell the model.

use std::time::{SystemTime, UNIX_EPOCH};

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAY: u64 = 24 * 60 * 60;

/// The time now (in UTC) in a format of Python's `strftime`, or the directive of the format that is not known.
pub(super) fn now(format: &str) -> Result<String, String> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    written(format, since.as_secs())
}

/// A time, as seconds since 1970.
fn written(format: &str, seconds: u64) -> Result<String, String> {
    let (days, second) = (seconds / DAY, seconds % DAY);
    let (year, month, day) = date(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let name = DAYS[((days + 4) % 7) as usize];
    let month_name = MONTHS[month as usize - 1];
    let of_twelve = (hour + 11) % 12 + 1;

    let mut out = String::new();
    let mut characters = format.chars();
    while let Some(c) = characters.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = characters.next();
        // Without zeros in front.
        let plain = directive == Some('-');
        if plain {
            directive = characters.next();
        }
        let two = |number: u64| if plain { number.to_string() } else { format!("{number:02}") };
        match directive {
            Some('Y') => out += &year.to_string(),
            Some('y') => out += &two(year % 100),
            Some('m') => out += &two(month),
            Some('B') => out += month_name,
            Some('b' | 'h') => out += &month_name[..3],
            Some('d') => out += &two(day),
            Some('e') if plain => out += &day.to_string(),
            Some('e') => out += &format!("{day:2}"),
            Some('A') => out += name,
            Some('a') => out += &name[..3],
            Some('H') => out += &two(hour),
            Some('I') => out += &two(of_twelve),
            Some('M') => out += &two(minute),
            Some('S') => out += &two(second % 60),
            Some('p') => out += if hour < 12 { "AM" } else { "PM" },
            Some('F') => out += &format!("{year}-{month:02}-{day:02}"),
            Some('T') => out += &format!("{hour:02}:{minute:02}:{:02}", second % 60),
            Some('%') => out.push('%'),
            other => {
                return Err(format!(
                    "%{}{}",
                    if plain { "-" } else { "" },
                    other.map(String::from).unwrap_or_default()
                ));
            }
        }
    }
    Ok(out)
}

/// Year, month and day of the month of a day, counted from 1 January 1970.
///
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
fn date(days: u64) -> (u64, u64, u64) {
    // Days since 1 March of the year 0, in eras of 400 years.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months from March on.
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (400 * era + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::written;

    /// By Python's `datetime.fromtimestamp(seconds, timezone.utc).strftime(format)`.
    #[test]
    fn times_are_written_as_by_python() {
        let all = "%Y %y %m %B %b %h %d %e %A %a %H %I %M %S %p %F %T %% %-d %-m %-H %-I %-e";
        for (seconds, expected) in [
            (0, "1970 70 01 January Jan Jan 01  1 Thursday Thu 00 12 00 00 AM 1970-01-01 00:00:00 % 1 1 0 12 1"),
            (
                951782399,
                "2000 00 02 February Feb Feb 28 28 Monday Mon 23 11 59 59 PM 2000-02-28 23:59:59 % 28 2 23 11 28",
            ),
            (
                951868799,
                "2000 00 02 February Feb Feb 29 29 Tuesday Tue 23 11 59 59 PM 2000-02-29 23:59:59 % 29 2 23 11 29",
            ),
            (
                1709164800,
                "2024 24 02 February Feb Feb 29 29 Thursday Thu 00 12 00 00 AM 2024-02-29 00:00:00 % 29 2 0 12 29",
            ),
            (
                1735689599,
                "2024 24 12 December Dec Dec 31 31 Tuesday Tue 23 11 59 59 PM 2024-12-31 23:59:59 % 31 12 23 11 31",
            ),
            (
                1767225600,
                "2026 26 01 January Jan Jan 01  1 Thursday Thu 00 12 00 00 AM 2026-01-01 00:00:00 % 1 1 0 12 1",
            ),
            (
                4107542399,
                "2100 00 02 February Feb Feb 28 28 Sunday Sun 23 11 59 59 PM 2100-02-28 23:59:59 % 28 2 23 11 28",
            ),
            (
                1790000000,
                "2026 26 09 September Sep Sep 21 21 Monday Mon 14 02 13 20 PM 2026-09-21 14:13:20 % 21 9 14 2 21",
            ),
        ] {
            assert_eq!(written(all, seconds).unwrap(), expected, "{seconds}");
        }
        assert_eq!(written("%d %Q", 0).unwrap_err(), "%Q");
        assert_eq!(written("%-", 0).unwrap_err(), "%-");
    }
}
