//! `strftime_now`: the date for templates, in UTC.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::{Error, ErrorKind};

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
/// 1 January 1970 was the first of these.
const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
const DAY_SECONDS: u64 = 86_400;

/// The present moment in the form of C's `strftime`, as far as templates use it.
pub(super) fn now(format: &str) -> Result<String, Error> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs());
    at(seconds, format)
}

fn at(seconds: u64, format: &str) -> Result<String, Error> {
    let (year, month, day) = date(seconds / DAY_SECONDS);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let month_name = MONTHS[month as usize - 1];
    let day_name = DAYS[(seconds / DAY_SECONDS % 7) as usize];
    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(char) = chars.next() {
        if char != '%' {
            text.push(char);
            continue;
        }
        let directive = chars.next();
        match directive {
            Some('Y') => write!(text, "{year}"),
            Some('y') => write!(text, "{:02}", year % 100),
            Some('m') => write!(text, "{month:02}"),
            Some('d') => write!(text, "{day:02}"),
            Some('e') => write!(text, "{day:2}"),
            Some('B') => write!(text, "{month_name}"),
            Some('b' | 'h') => write!(text, "{}", &month_name[..3]),
            Some('A') => write!(text, "{day_name}"),
            Some('a') => write!(text, "{}", &day_name[..3]),
            Some('H') => write!(text, "{hour:02}"),
            Some('I') => write!(text, "{:02}", (hour + 11) % 12 + 1),
            Some('p') => write!(text, "{}", if hour < 12 { "AM" } else { "PM" }),
            Some('M') => write!(text, "{minute:02}"),
            Some('S') => write!(text, "{second:02}"),
            Some('F') => write!(text, "{year}-{month:02}-{day:02}"),
            Some('T') => write!(text, "{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => write!(text, "UTC"),
            Some('%') => write!(text, "%"),
            other => {
                let message = format!("strftime_now does not know %{}", other.unwrap_or_default());
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        }
        .map_err(|error| Error::new(ErrorKind::WriteFailure, error.to_string()))?;
    }
    Ok(text)
}

/// Year, month from 1 and day from 1 of a day counted from 1 January 1970.
///
/// From: Howard Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`: years begin in March, so that
/// the day that leap years add is the last one.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(at(0, "%d %B %Y, %A").unwrap(), "01 January 1970, Thursday");
        assert_eq!(at(951_782_400, "%F %a").unwrap(), "2000-02-29 Tue");
        assert_eq!(
            at(1_732_406_399, "%d %b %y %H:%M:%S %I%p 100%%").unwrap(),
            "23 Nov 24 23:59:59 11PM 100%"
        );
        assert!(at(0, "%Q").is_err() && at(0, "%").is_err());
    }
}
