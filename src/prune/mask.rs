//! From scores of weights to the weights that are removed.

use rayon::prelude::*;

use super::pattern::Pattern;

/// Whether each weight of a matrix stays, `[rows, columns]`.
pub(super) type Mask = Vec<bool>;

/// Removes the weights of lowest score in every row, `sparsity` of them or as `pattern` says.
pub(super) fn by_rows(scores: &[f32], columns: usize, pattern: Pattern, sparsity: f64) -> Mask {
    let mut mask = vec![true; scores.len()];
    let (group, remove) = match pattern {
        Pattern::Groups { keep, of } => (of, of - keep),
        _ => (columns, (columns as f64 * sparsity) as usize),
    };
    mask.par_chunks_exact_mut(columns).zip(scores.par_chunks_exact(columns)).for_each(|(mask, scores)| {
        for (mask, scores) in mask.chunks_exact_mut(group).zip(scores.chunks_exact(group)) {
            remove_lowest(scores, remove, mask);
        }
    });
    mask
}

/// Removes the weights of lowest score of the whole matrix, or as `pattern` says.
pub(super) fn by_matrix(scores: &[f32], columns: usize, pattern: Pattern, sparsity: f64) -> Mask {
    if matches!(pattern, Pattern::Groups { .. }) {
        return by_rows(scores, columns, pattern, sparsity);
    }
    let mut mask = vec![true; scores.len()];
    remove_lowest(scores, (scores.len() as f64 * sparsity) as usize, &mut mask);
    mask
}

/// Clears `count` elements of `mask`, those of the lowest `scores`; of equal ones the first.
pub(super) fn remove_lowest(scores: &[f32], count: usize, mask: &mut [bool]) {
    if count == 0 {
        return;
    }
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    let by_score = |&a: &u32, &b: &u32| scores[a as usize].total_cmp(&scores[b as usize]).then(a.cmp(&b));
    if count < order.len() {
        order.select_nth_unstable_by(count, by_score);
    }
    for &index in &order[..count] {
        mask[index as usize] = false;
    }
}

/// Sets the weights that do not stay to zero.
pub(super) fn apply(weights: &mut [f32], mask: &[bool]) {
    weights.par_iter_mut().zip(mask).for_each(|(weight, &stays)| {
        if !stays {
            *weight = 0.0;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_go() {
        let scores = [3.0, 1.0, 2.0, 4.0, 1.0, 1.0, 9.0, 8.0];
        let groups = Pattern::Groups { keep: 2, of: 4 };
        assert_eq!(by_rows(&scores, 4, groups, 0.0), [true, false, false, true, false, false, true, true]);
        assert_eq!(
            by_rows(&scores, 4, Pattern::Unstructured, 0.25),
            [true, false, true, true, false, true, true, true]
        );
        assert_eq!(
            by_matrix(&scores, 4, Pattern::Unstructured, 0.375),
            [true, false, true, true, false, false, true, true]
        );
        assert_eq!(by_matrix(&scores, 4, groups, 0.0), by_rows(&scores, 4, groups, 0.0));
        let mut mask = [true; 2];
        remove_lowest(&[f32::NAN, 0.0], 2, &mut mask);
        assert_eq!(mask, [false; 2]);
    }
}
