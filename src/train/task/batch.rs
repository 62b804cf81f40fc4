//! Rows that go through a model at once.

/// Rows that go through a model at once.
pub trait Batch {
    /// Number of rows.
    fn rows(&self) -> usize;

    /// What a row costs: its tokens, padding included; 1 where all rows have one size.
    fn row_length(&self) -> usize;

    /// Tokens that are read, or rows where there are no tokens; padding not counted.
    fn tokens(&self) -> usize;

    /// Whether fewer rows can go through the model at once with the same result.
    fn is_divisible(&self) -> bool;
}
