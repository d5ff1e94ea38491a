//! The style sheets of the page and of pictures that stand alone.

/// The page's style: colours by the reader's choice, then pictures, then the rest.
pub const STYLE: &str =
    concat!(include_str!("palette.css"), include_str!("picture.css"), include_str!("page.css"));

/// Colours of the light page, then those of the dark one.
const PALETTE: &str = include_str!("palette.css");
/// The classes of pictures.
const PICTURE: &str = include_str!("picture.css");

/// The style sheet of a picture that stands alone: programs that print read no variables, so each
/// stands as its colour on the light page.
pub fn standalone() -> String {
    let light = PALETTE.split('}').next().unwrap_or_default();
    let mut style = format!(".picture{{background:#fff}}\n{PICTURE}");
    for entry in light.split(['{', ';']) {
        if let Some((name, colour)) = entry.trim().split_once(':') {
            style = style.replace(&format!("var({})", name.trim()), colour.trim());
        }
    }
    style
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_alone_needs_no_variables() {
        let style = standalone();
        assert!(!style.contains("var("), "{style}");
        assert!(style.contains(".c0"));
    }
}
