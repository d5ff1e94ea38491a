//! The screen of a terminal: what is left on it of a text that moves the cursor.

use unicode_width::UnicodeWidthChar;

/// Rows of characters. It is never scrolled: no test prints that many lines.
pub struct Screen {
    columns: usize,
    rows: Vec<Vec<char>>,
    row: usize,
    column: usize,
}

impl Screen {
    /// Shows a text on an empty screen so many columns wide.
    pub fn of(text: &str, columns: usize) -> Screen {
        let mut screen = Screen { columns, rows: vec![Vec::new()], row: 0, column: 0 };
        let mut text = text.chars().peekable();
        while let Some(c) = text.next() {
            match c {
                '\n' => screen.down(1),
                '\r' => screen.column = 0,
                '\u{1b}' if text.next_if_eq(&'[').is_some() => {
                    let mut parameter = String::new();
                    while let Some(c) = text.next_if(|c| !c.is_ascii_alphabetic()) {
                        parameter.push(c);
                    }
                    screen.control(text.next().unwrap(), &parameter);
                }
                '\u{1b}' => {
                    text.next();
                }
                c => screen.put(c),
            }
        }
        screen
    }

    /// Returns its lines without the spaces behind them, up to the last that shows anything.
    pub fn lines(&self) -> Vec<String> {
        let line = |row: &Vec<char>| row.iter().collect::<String>().trim_end().to_owned();
        let mut lines: Vec<String> = self.rows.iter().map(line).collect();
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines
    }

    fn control(&mut self, command: char, parameter: &str) {
        let number = parameter.parse::<usize>().ok();
        let count = number.unwrap_or(1).max(1);
        match command {
            'A' => self.row = self.row.saturating_sub(count),
            'B' => self.down(count),
            'C' => self.column += count,
            'D' => self.column = self.column.saturating_sub(count),
            'G' => self.column = count - 1,
            'K' if number == Some(2) => self.rows[self.row].clear(),
            'K' => self.rows[self.row].truncate(self.column),
            'J' => {
                self.rows.truncate(self.row + 1);
                self.rows[self.row].truncate(self.column);
            }
            // Colours, and whether the cursor is seen.
            'm' | 'h' | 'l' => {}
            other => panic!("the screen does not know `{other}`"),
        }
    }

    fn down(&mut self, count: usize) {
        self.row += count;
        let rows = self.rows.len().max(self.row + 1);
        self.rows.resize(rows, Vec::new());
    }

    fn put(&mut self, c: char) {
        let width = c.width().unwrap_or(0);
        if width == 0 {
            return;
        }
        if self.column + width > self.columns {
            self.down(1);
            self.column = 0;
        }
        let row = &mut self.rows[self.row];
        if row.len() <= self.column {
            row.resize(self.column + 1, ' ');
        }
        row[self.column] = c;
        self.column += width;
    }
}
