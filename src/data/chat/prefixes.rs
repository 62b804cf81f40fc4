//! A turn of the assistant in the text of a template that does not tell which message it renders.
//!
//! Such a template has to render the messages before a turn as it does in the whole conversation.

use std::ops::Range;

use super::renderer::Rendering;
use crate::Result;

/// What [`find_span`] compares: the messages before `turn` without and with a generation prompt, and through `turn`.
pub(super) fn renderings(turn: usize) -> Vec<(usize, bool)> {
    vec![(turn, false), (turn, true), (turn + 1, false)]
}

/// The turn in `text`, by the next three of `renderings`, or `None` if the template does not render it in place.
pub(super) fn find_span(
    text: &str,
    renderings: &mut impl Iterator<Item = Result<Rendering>>,
    is_last: bool,
) -> Option<Range<usize>> {
    let mut next = || renderings.next().and_then(Result::ok).map(|rendering| rendering.text);
    let (history, prompt, through) = (next(), next(), next());
    let (history, prompt, through) = (history?, prompt?, through?);
    // The generation prompt of some templates is longer than what the answer keeps, such as `<think>`.
    let start = common_prefix(&prompt, text);
    let end = if is_last { text.len() } else { through.len() };
    let is_in_place =
        text.starts_with(&history) && start >= history.len() && (is_last || text.starts_with(&through));
    if !is_in_place || start > end {
        return None;
    }
    Some(start..start + text[start..end].trim_end().len()).filter(|span| !span.is_empty())
}

/// Length in bytes of the longest common prefix of whole characters.
fn common_prefix(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(x, y)| x == y).map(|(x, _)| x.len_utf8()).sum()
}
