//! The place of a span in a trace, and the header in which it goes from one program to the next.
//!
//! From: W3C Trace Context, Level 1, §3.2 (`traceparent`).

/// A span: its trace, itself, and whether it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// Never 0.
    pub(super) trace_id: u128,
    /// Never 0.
    pub(super) span_id: u64,
    pub(super) sampled: bool,
}

impl TraceContext {
    /// What a `traceparent` says; `None` for what is none, which is then as if it were not there.
    pub fn parse(header: &str) -> Option<Self> {
        let (version, rest) = header.split_once('-')?;
        let (trace_id, rest) = rest.split_once('-')?;
        let (span_id, rest) = rest.split_once('-')?;
        // Later versions may say more behind the flags.
        let (flags, more) = rest.split_once('-').map_or((rest, None), |(flags, more)| (flags, Some(more)));
        let version = hexadecimal(version, 2)?;
        if version == 0xff || (version == 0 && more.is_some()) {
            return None;
        }
        let (trace_id, span_id) = (hexadecimal(trace_id, 32)?, hexadecimal(span_id, 16)? as u64);
        let sampled = hexadecimal(flags, 2)? & 1 == 1;
        (trace_id != 0 && span_id != 0).then_some(Self { trace_id, span_id, sampled })
    }

    /// As a `traceparent`.
    pub fn header(&self) -> String {
        let Self { trace_id, span_id, sampled } = self;
        format!("00-{trace_id:032x}-{span_id:016x}-{:02x}", u8::from(*sampled))
    }

    /// A new trace.
    pub(super) fn random(sampled: bool) -> Self {
        let trace_id = (u128::from(random_id()) << 64) | u128::from(random_id());
        Self { trace_id, span_id: random_id(), sampled }
    }

    /// A new span of the same trace.
    pub(super) fn child(self) -> Self {
        Self { span_id: random_id(), ..self }
    }

    /// The trace, if it is kept.
    pub(super) fn sampled_trace(self) -> Option<u128> {
        self.sampled.then_some(self.trace_id)
    }
}

fn random_id() -> u64 {
    rand::random_range(1..=u64::MAX)
}

/// So many digits in lower case, and nothing else.
fn hexadecimal(text: &str, digits: usize) -> Option<u128> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let holds = text.len() == digits && text.bytes().all(is_digit);
    holds.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_example_of_the_specification_is_read_and_written() {
        let context = TraceContext::parse(EXAMPLE).unwrap();
        assert_eq!(context.sampled_trace(), Some(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736));
        assert_eq!(context.header(), EXAMPLE);
        let child = context.child();
        assert_eq!((child.trace_id, child.sampled), (context.trace_id, true));
        assert_ne!(child.span_id, context.span_id);
        assert!(!TraceContext::parse(&EXAMPLE.replace("-01", "-02")).unwrap().sampled);
    }

    #[test]
    fn later_versions_may_say_more_and_this_one_may_not() {
        assert!(TraceContext::parse(&format!("{EXAMPLE}-more")).is_none());
        assert!(TraceContext::parse(&format!("01{}-more", &EXAMPLE[2..])).is_some());
    }

    #[test]
    fn what_is_none_is_none() {
        for bad in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 ",
        ] {
            assert_eq!(TraceContext::parse(bad), None, "{bad}");
        }
    }
}
