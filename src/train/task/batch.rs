//! A batch of rows.

/// A batch of rows.
pub trait Batch {
    /// Number of rows.
    fn rows(&self) -> usize;

    /// Length of the padded rows in tokens; 1 where all rows have the same size.
    fn row_length(&self) -> usize;

    /// Number of tokens without padding, or rows where there are no tokens.
    fn tokens(&self) -> usize;

    /// Whether the batch can be split into smaller ones.
    fn is_divisible(&self) -> bool;
}
