//! Cleaning of texts before tokenization.

use std::borrow::Cow;

use fancy_regex::Regex;
use std::sync::LazyLock;
use unicode_normalization::UnicodeNormalization as _;

/// Which rules apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cleaning {
    /// None but those of the tokenizer.
    None,
    /// Those of `open_clip`: characters are repaired as in [ftfy](https://github.com/rspeer/python-ftfy), except that text
    /// decoded from the wrong encoding stays; HTML entities are decoded twice, and letters are lower-case.
    OpenClip,
    /// Those of `SigLIP`: lower-case letters, no ASCII punctuation, single spaces.
    Canonical,
    /// Those of `SigLIP` 2: lower-case letters.
    LowerCase,
}

impl Cleaning {
    pub(super) fn apply(self, text: &str) -> Cow<'_, str> {
        match self {
            Self::None => Cow::Borrowed(text),
            Self::LowerCase => Cow::Owned(text.to_lowercase()),
            Self::Canonical => {
                let kept: String =
                    text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
                Cow::Owned(single_spaces(&kept))
            }
            Self::OpenClip => {
                let fixed = repaired(text);
                let once = htmlize::unescape(&fixed);
                Cow::Owned(single_spaces(&htmlize::unescape(&*once)).to_lowercase())
            }
        }
    }
}

fn single_spaces(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Repairs each line until nothing changes.
fn repaired(text: &str) -> String {
    let mut decodes_entities = true;
    let mut repaired = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        decodes_entities &= !line.contains('<');
        let mut line = line.to_owned();
        loop {
            let next = repaired_once(&line, decodes_entities);
            if next == line {
                break;
            }
            line = next;
        }
        repaired.push_str(&line);
    }
    repaired
}

fn repaired_once(line: &str, decodes_entities: bool) -> String {
    static ENTITY: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new("&#?[0-9A-Za-z]{1,24};").ok());
    static TERMINAL: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new("\u{1b}\\[(?:[0-9]|;)*[a-zA-Z]").ok());
    let mut line = Cow::Borrowed(line);
    if let Some(entity) = ENTITY.as_ref().filter(|_| decodes_entities) {
        let decode = |found: &fancy_regex::Captures<'_, str>| htmlize::unescape(&found[0]).into_owned();
        line = Cow::Owned(entity.replace_all(&line, decode).into_owned());
    }
    let replaced: String = line.chars().flat_map(replacement).collect();
    let broken = replaced.replace("\r\n", "\n").replace(['\r', '\u{2028}', '\u{2029}', '\u{85}'], "\n");
    let plain = match TERMINAL.as_ref() {
        Some(escapes) => escapes.replace_all(&broken, "").into_owned(),
        None => broken,
    };
    plain.chars().filter(|c| !is_control(*c)).nfc().collect()
}

/// What stands for a character: of ligatures their letters, of wide and narrow forms the usual one, of curled quotation
/// marks straight ones, of C1 controls what Windows means by them.
fn replacement(c: char) -> impl Iterator<Item = char> {
    let text: Cow<'static, str> = match c {
        '\u{80}'..='\u{9f}' => Cow::Owned(windows(c).to_string()),
        'Ĳ' => Cow::Borrowed("IJ"),
        'ĳ' => Cow::Borrowed("ij"),
        'ŉ' => Cow::Borrowed("ʼn"),
        'Ǆ' => Cow::Borrowed("DŽ"),
        'ǅ' => Cow::Borrowed("Dž"),
        'ǆ' => Cow::Borrowed("dž"),
        'Ǉ' => Cow::Borrowed("LJ"),
        'ǈ' => Cow::Borrowed("Lj"),
        'ǉ' => Cow::Borrowed("lj"),
        'Ǌ' => Cow::Borrowed("NJ"),
        'ǋ' => Cow::Borrowed("Nj"),
        'ǌ' => Cow::Borrowed("nj"),
        'Ǳ' => Cow::Borrowed("DZ"),
        'ǲ' => Cow::Borrowed("Dz"),
        'ǳ' => Cow::Borrowed("dz"),
        'ﬀ' => Cow::Borrowed("ff"),
        'ﬁ' => Cow::Borrowed("fi"),
        'ﬂ' => Cow::Borrowed("fl"),
        'ﬃ' => Cow::Borrowed("ffi"),
        'ﬄ' => Cow::Borrowed("ffl"),
        'ﬅ' => Cow::Borrowed("ſt"),
        'ﬆ' => Cow::Borrowed("st"),
        '\u{3000}' => Cow::Borrowed(" "),
        '\u{ff01}'..='\u{ffef}' => Cow::Owned(std::iter::once(c).nfkc().collect()),
        '\u{2bc}' | '\u{2018}'..='\u{201b}' => Cow::Borrowed("'"),
        '\u{201c}'..='\u{201f}' => Cow::Borrowed("\""),
        other => Cow::Owned(other.to_string()),
    };
    text.chars().collect::<Vec<_>>().into_iter()
}

/// The character of Windows-1252 in place of a C1 control; five bytes have none.
fn windows(c: char) -> char {
    const TABLE: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}',
        '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
    ];
    TABLE[c as usize - 0x80]
}

/// Controls that are removed.
fn is_control(c: char) -> bool {
    matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}' | '\u{206a}'..='\u{206f}' | '\u{feff}'
        | '\u{fff9}'..='\u{fffc}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cleaned_as_by_open_clip() {
        for (text, clean) in [
            ("  A  Photo\tof\na CAT ", "a photo of a cat"),
            ("caf\u{e9} cafe\u{301}", "café café"),
            ("Tom &amp;amp; Jerry &lt;3 &hearts;", "tom & jerry <3 ♥"),
            ("a < b &eacute; &copy", "a < b é ©"),
            ("“quoted” ‘it’s’", "\"quoted\" 'it's'"),
            ("ﬁsh ＬＯＵＤ　ｶﾅ", "fish loud カナ"),
            ("zero\u{feff}width\u{7}", "zerowidth"),
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("👩‍🚀 🏳️‍🌈", "👩‍🚀 🏳️‍🌈"),
        ] {
            assert_eq!(Cleaning::OpenClip.apply(text), clean);
        }
    }

    #[test]
    fn texts_are_cleaned_as_by_siglip() {
        assert_eq!(Cleaning::Canonical.apply(" A dog's  (big) House_boat! "), "a dogs big houseboat");
        assert_eq!(Cleaning::LowerCase.apply("A Dog!"), "a dog!");
        assert_eq!(Cleaning::None.apply("A Dog"), "A Dog");
    }
}
