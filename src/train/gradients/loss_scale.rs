//! [Dynamic loss scaling](https://arxiv.org/abs/1710.03740) for float16: the loss is multiplied by a factor so
//! that small gradients do not underflow, which is halved whenever gradients overflow.

use serde::{Deserialize, Serialize};

const START: f32 = 65_536.0;
const LARGEST: f32 = 16_777_216.0;
/// Number of finite steps after which the scale is doubled.
const INTERVAL: u32 = 2000;

/// Scale of the loss; gradients are divided by it before the update.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    /// The scale, a power of 2 so that scaling is exact.
    pub scale: f32,
    /// Number of finite steps since the last change.
    pub good_steps: u32,
}

impl Default for LossScale {
    fn default() -> Self {
        Self { scale: START, good_steps: 0 }
    }
}

impl LossScale {
    /// Updates the scale after a step with finite gradients.
    pub fn grow(&mut self) {
        self.good_steps += 1;
        if self.good_steps >= INTERVAL {
            *self = Self { scale: (2.0 * self.scale).min(LARGEST), good_steps: 0 };
        }
    }

    /// Halves the scale after an overflow, whose step must be skipped. Returns false if the scale cannot be the
    /// cause.
    #[must_use]
    pub fn shrink(&mut self) -> bool {
        *self = Self { scale: self.scale / 2.0, good_steps: 0 };
        self.scale >= 1.0
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "powers of 2 are exact")]
mod tests {
    use super::*;

    #[test]
    fn halves_on_overflow_and_doubles_after_two_thousand_good_steps() {
        let mut scale = LossScale::default();
        assert!(scale.shrink());
        assert_eq!(scale, LossScale { scale: 32_768.0, good_steps: 0 });
        for _ in 0..1999 {
            scale.grow();
        }
        assert_eq!(scale, LossScale { scale: 32_768.0, good_steps: 1999 });
        scale.grow();
        assert_eq!(scale, LossScale { scale: 65_536.0, good_steps: 0 });
    }

    #[test]
    fn has_a_top_and_a_bottom() {
        let mut scale = LossScale { scale: LARGEST, good_steps: INTERVAL - 1 };
        scale.grow();
        assert_eq!(scale.scale, LARGEST);
        let mut scale = LossScale { scale: 1.0, good_steps: 5 };
        assert!(!scale.shrink());
    }
}
