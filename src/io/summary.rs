//! Lists of problems in error messages.

/// Joins the first few of `problems`, with the number of the others.
pub(crate) fn summarize(problems: &[String]) -> String {
    const SHOWN: usize = 5;
    let text = problems.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
    match problems.len().saturating_sub(SHOWN) {
        0 => text,
        more => format!("{text}; and {more} more"),
    }
}
