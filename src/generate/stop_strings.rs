//! Stop strings that may span several tokens.

/// Holds back text that could be the beginning of a stop string.
#[derive(Debug, Clone)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
    hit: bool,
}

impl StopStrings {
    /// Creates a detector of `stops`; empty strings are ignored.
    #[must_use]
    pub fn new(stops: &[String]) -> Self {
        Self { stops: stops.to_vec(), held: String::new(), hit: false }
    }

    /// Adds `piece` and returns the text that is safe to output: never part of a stop string, nor what follows it.
    pub fn push(&mut self, piece: &str) -> String {
        if self.hit {
            return String::new();
        }
        self.held.push_str(piece);
        let stops = || self.stops.iter().filter(|stop| !stop.is_empty());
        if let Some(end) = stops().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.hit = true;
            self.held.truncate(end);
            return std::mem::take(&mut self.held);
        }
        let starts = self.held.char_indices().map(|(start, _)| start);
        let safe = starts
            .into_iter()
            .find(|&start| stops().any(|stop| stop.starts_with(&self.held[start..])))
            .unwrap_or(self.held.len());
        let rest = self.held.split_off(safe);
        std::mem::replace(&mut self.held, rest)
    }

    /// Whether a stop string was found.
    #[must_use]
    pub fn hit(&self) -> bool {
        self.hit
    }

    /// Returns the text held back, at the end of the generation.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
        let mut watch = StopStrings::new(&stops);
        let mut shown: Vec<String> = pieces.iter().map(|piece| watch.push(piece)).collect();
        shown.push(watch.finish());
        (shown, watch.hit())
    }

    #[test]
    fn a_stop_string_across_pieces_is_never_shown() {
        let (text, hit) = shown(&["END"], &["oné E", "N", "D two"]);
        assert_eq!((text.concat().as_str(), hit), ("oné ", true));
    }

    #[test]
    fn a_false_start_is_shown_late() {
        let (text, hit) = shown(&["END", ""], &["E", "N", "x"]);
        assert_eq!((text, hit), (vec![String::new(), String::new(), "ENx".into(), String::new()], false));
    }

    #[test]
    fn a_held_start_is_shown_at_the_end() {
        assert_eq!(shown(&["END"], &["the EN"]), (vec!["the ".into(), "EN".into()], false));
    }

    #[test]
    fn the_earliest_stop_wins() {
        assert_eq!(shown(&["b", "a"], &["xab"]).0.concat(), "x");
    }
}
