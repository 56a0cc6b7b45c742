//! `strftime_now`: the date for templates, in UTC.

use jiff::Timestamp;
use jiff::fmt::strtime;
use jiff::tz::TimeZone;
use minijinja::{Error, ErrorKind};

/// Where templates take the time from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Clock {
    /// The system.
    System,
    /// Always the same moment, in seconds since 1970.
    #[cfg(test)]
    Still(i64),
}

impl Clock {
    /// The present moment in the form of C's `strftime`, without a name or distance of the time zone, which Python does not
    /// know there either.
    pub(super) fn now(self, format: &str) -> Result<String, Error> {
        let now = match self {
            Self::System => Timestamp::now(),
            #[cfg(test)]
            Self::Still(seconds) => Timestamp::from_second(seconds).expect("a moment that jiff knows"),
        };
        strtime::format(as_in_python(format), TimeZone::UTC.to_datetime(now)).map_err(|error| {
            Error::new(ErrorKind::InvalidOperation, format!("strftime_now does not know {format:?}: {error}"))
        })
    }
}

/// Directives that Python has otherwise, in the terms of others: those of the plain locale, and a time without a zone.
fn as_in_python(format: &str) -> String {
    let (mut text, mut chars) = (String::with_capacity(format.len()), format.chars());
    while let Some(char) = chars.next() {
        match (char, if char == '%' { chars.next() } else { None }) {
            ('%', Some('c')) => text.push_str("%a %b %e %H:%M:%S %Y"),
            ('%', Some('x')) => text.push_str("%m/%d/%y"),
            ('%', Some('X')) => text.push_str("%H:%M:%S"),
            ('%', Some('z' | 'Z')) => {}
            (char, next) => text.extend(std::iter::once(char).chain(next)),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |seconds, format| Clock::Still(seconds).now(format);
        assert_eq!(at(0, "%d %B %Y, %A%Z").unwrap(), "01 January 1970, Thursday");
        assert_eq!(at(951_782_400, "%F %a").unwrap(), "2000-02-29 Tue");
        assert_eq!(
            at(1_732_406_399, "%d %b %y %H:%M:%S %I%p %-d %j 100%%").unwrap(),
            "23 Nov 24 23:59:59 11PM 23 328 100%"
        );
        assert!(at(0, "%!").is_err() && at(0, "%").is_err());
        assert!(Clock::System.now("%Y").unwrap().as_str() > "2024");
    }
}
