//! A lexer for Rust that is just good enough to find paths: it skips comments, strings and character literals.

use std::iter::Peekable;
use std::str::Chars;

/// A word, `::`, or a single other character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    /// The number of its line, counted from 1.
    pub(crate) line: usize,
}

pub(crate) fn tokens_of(text: &str) -> Vec<Token> {
    Lexer { chars: text.chars().peekable(), line: 1, tokens: Vec::new() }.run()
}

fn is_part_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

struct Lexer<'a> {
    chars: Peekable<Chars<'a>>,
    line: usize,
    tokens: Vec<Token>,
}

impl Lexer<'_> {
    fn run(mut self) -> Vec<Token> {
        while let Some(c) = self.next() {
            match c {
                '/' if self.chars.peek() == Some(&'/') => self.skip_line(),
                '/' if self.chars.peek() == Some(&'*') => self.skip_block_comment(),
                '"' => self.skip_string(),
                '\'' => self.skip_char_or_lifetime(),
                ':' if self.chars.peek() == Some(&':') => {
                    self.next();
                    self.push("::".to_owned());
                }
                c if is_part_of_word(c) => self.word(c),
                c if c.is_whitespace() => {}
                c => self.push(c.to_string()),
            }
        }
        self.tokens
    }

    fn next(&mut self) -> Option<char> {
        let next = self.chars.next();
        self.line += usize::from(next == Some('\n'));
        next
    }

    fn push(&mut self, text: String) {
        self.tokens.push(Token { text, line: self.line });
    }

    fn word(&mut self, first: char) {
        let mut text = String::from(first);
        while let Some(c) = self.chars.next_if(|c| is_part_of_word(*c)) {
            text.push(c);
        }
        let is_raw = matches!(&*text, "r" | "br" | "cr") && matches!(self.chars.peek(), Some('"' | '#'));
        if is_raw && self.skip_raw_string() {
            return;
        }
        self.push(text);
    }

    fn skip_line(&mut self) {
        while self.next().is_some_and(|c| c != '\n') {}
    }

    fn skip_block_comment(&mut self) {
        self.next();
        let mut depth = 1;
        while depth > 0 {
            match (self.next(), self.chars.peek()) {
                (Some('/'), Some('*')) => depth += 1,
                (Some('*'), Some('/')) => depth -= 1,
                (Some(_), _) => continue,
                (None, _) => return,
            }
            self.next();
        }
    }

    fn skip_string(&mut self) {
        while let Some(c) = self.next() {
            match c {
                '"' => return,
                '\\' => drop(self.next()),
                _ => {}
            }
        }
    }

    /// Returns `false` if this is a raw identifier, such as `r#async`, of which it skips only the `#`.
    fn skip_raw_string(&mut self) -> bool {
        let mut hashes = 0;
        while self.chars.next_if_eq(&'#').is_some() {
            hashes += 1;
        }
        if self.chars.next_if_eq(&'"').is_none() {
            return false;
        }
        loop {
            match self.next() {
                Some('"') => {
                    let mut closing = 0;
                    while closing < hashes && self.chars.next_if_eq(&'#').is_some() {
                        closing += 1;
                    }
                    if closing == hashes {
                        return true;
                    }
                }
                Some(_) => {}
                None => return true,
            }
        }
    }

    fn skip_char_or_lifetime(&mut self) {
        match self.next() {
            Some('\\') => {
                self.next();
                while self.next().is_some_and(|c| c != '\'') {}
            }
            Some(_) if self.chars.peek() == Some(&'\'') => drop(self.next()),
            // A lifetime: the rest of its name is not a path, because no `::` follows.
            _ => {}
        }
    }
}

#[test]
fn lexer_skips_comments_strings_and_characters() {
    let text = "a::b // c\n/* d /* e */ */ \"f \\\" g\" r#\"h \" i\"# '{' '\\'' 'k' &'long x";
    let words: Vec<_> = tokens_of(text).into_iter().map(|token| token.text).collect();
    assert_eq!(words, ["a", "::", "b", "&", "ong", "x"]);
    let lines: Vec<_> = tokens_of("a\n\n\"\n\"b").into_iter().map(|token| token.line).collect();
    assert_eq!(lines, [1, 4]);
}
