//! Parquet files written by hand, so that any part of them can lie: plain texts, one row group, one page a column.

/// A file.
pub struct File {
    pub columns: Vec<Column>,
    /// What the footer says.
    pub rows: i64,
    /// What the row group says.
    pub group_rows: i64,
    /// Groups around the columns, one in another.
    pub deep: usize,
    /// What the root says of its children.
    pub children: i32,
}

/// A column, and what is said of it.
pub struct Column {
    pub name: String,
    /// The column that the row group names.
    pub path: Option<String>,
    pub physical: i32,
    pub codec: i32,
    /// The page as it lies in the file.
    pub data: Vec<u8>,
    /// Bytes of the page when it is whole.
    pub page_size: i32,
    pub page_values: i32,
    /// What the page's header holds beside that: fields after the fifth.
    pub more: Vec<u8>,
    pub values: i64,
    /// Where the page lies; found out when absent.
    pub offset: Option<i64>,
    /// Bytes of page and header; found out when absent.
    pub chunk_size: Option<i64>,
}

impl Column {
    pub fn texts(name: &str, texts: &[&str]) -> Column {
        let mut data = Vec::new();
        for text in texts {
            data.extend((text.len() as u32).to_le_bytes());
            data.extend(text.as_bytes());
        }
        let (page_size, count) = (data.len() as i32, texts.len() as i32);
        let name = name.to_owned();
        Column {
            name,
            path: None,
            physical: 6,
            codec: 0,
            data,
            page_size,
            page_values: count,
            more: Vec::new(),
            values: count.into(),
            offset: None,
            chunk_size: None,
        }
    }
}

impl File {
    pub fn of(columns: Vec<Column>) -> File {
        let rows = columns[0].values;
        let children = columns.len() as i32;
        File { columns, rows, group_rows: rows, deep: 0, children }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut file = b"PAR1".to_vec();
        let mut chunks = Vec::new();
        for column in &self.columns {
            let start = file.len() as i64;
            let mut header = Struct::default();
            header.int(1, 0).int(2, column.page_size.into()).int(3, column.data.len() as i64);
            let mut page = Struct::default();
            page.int(1, column.page_values.into()).int(2, 0).int(3, 3).int(4, 3);
            header.structure(5, page);
            header.bytes.extend(&column.more);
            file.extend(header.end());
            file.extend(&column.data);
            chunks.push(column.chunk(start, file.len() as i64 - start));
        }
        let mut group = Struct::default();
        group.list(1, STRUCT, chunks).long(2, 1000).long(3, self.group_rows);
        let mut footer = Struct::default();
        footer.int(1, 1).list(2, STRUCT, self.schema()).long(3, self.rows).list(
            4,
            STRUCT,
            vec![group.end()],
        );
        let footer = footer.end();
        file.extend(&footer);
        file.extend((footer.len() as u32).to_le_bytes());
        file.extend(b"PAR1");
        file
    }

    fn schema(&self) -> Vec<Vec<u8>> {
        let group = |children: i32| {
            let mut group = Struct::default();
            group.int(3, 0).text(4, "g").int(5, children.into());
            group.end()
        };
        let mut elements: Vec<Vec<u8>> = (0..self.deep).map(|_| group(1)).collect();
        elements.push(group(self.children));
        for column in &self.columns {
            let mut leaf = Struct::default();
            leaf.int(1, column.physical.into()).int(3, 0).text(4, &column.name).int(6, 0);
            elements.push(leaf.end());
        }
        elements
    }
}

impl Column {
    fn chunk(&self, start: i64, size: i64) -> Vec<u8> {
        let (start, size) = (self.offset.unwrap_or(start), self.chunk_size.unwrap_or(size));
        let mut metadata = Struct::default();
        let path = self.path.as_ref().unwrap_or(&self.name);
        metadata.int(1, self.physical.into()).list(2, INT, vec![varint(0)]).list(
            3,
            TEXT,
            vec![text(path)],
        );
        metadata
            .int(4, self.codec.into())
            .long(5, self.values)
            .long(6, size)
            .long(7, size)
            .long(9, start);
        let mut chunk = Struct::default();
        chunk.long(2, start).structure(3, metadata);
        chunk.end()
    }
}

const INT: u8 = 5;
const LONG: u8 = 6;
const TEXT: u8 = 8;
const LIST: u8 = 9;
const STRUCT: u8 = 12;

/// A structure in Thrift's compact form. Fields come in the order of their numbers.
#[derive(Default)]
struct Struct {
    bytes: Vec<u8>,
    last: u8,
}

impl Struct {
    fn field(&mut self, id: u8, kind: u8) -> &mut Self {
        self.bytes.push((id - self.last) << 4 | kind);
        self.last = id;
        self
    }

    fn int(&mut self, id: u8, value: i64) -> &mut Self {
        self.field(id, INT).bytes.extend(varint(value));
        self
    }

    fn long(&mut self, id: u8, value: i64) -> &mut Self {
        self.field(id, LONG).bytes.extend(varint(value));
        self
    }

    fn text(&mut self, id: u8, value: &str) -> &mut Self {
        self.field(id, TEXT).bytes.extend(text(value));
        self
    }

    fn list(&mut self, id: u8, kind: u8, items: Vec<Vec<u8>>) -> &mut Self {
        self.field(id, LIST).bytes.push(0xf0 | kind);
        self.bytes.extend(unsigned(items.len() as u64));
        self.bytes.extend(items.concat());
        self
    }

    fn structure(&mut self, id: u8, value: Struct) -> &mut Self {
        self.field(id, STRUCT).bytes.extend(value.end());
        self
    }

    fn end(mut self) -> Vec<u8> {
        self.bytes.push(0);
        self.bytes
    }
}

/// The fifteenth field of a structure, after the fifth: many lists, each of as many truth values as there can be, of which
/// none is there.
pub fn endless_lists() -> Vec<u8> {
    let list = [vec![0xf1], unsigned(i32::MAX as u64)].concat();
    [vec![0xa0 | LIST, 0xf0 | LIST], unsigned(40), list.repeat(40)].concat()
}

/// The seventh field, after the fifth: a list of truth values, of which each is a byte of what it is told to hide.
pub fn hidden(content: &[u8]) -> Vec<u8> {
    [vec![0x20 | LIST, 0xf1], unsigned(content.len() as u64), content.to_vec()].concat()
}

fn text(value: &str) -> Vec<u8> {
    [unsigned(value.len() as u64), value.as_bytes().to_vec()].concat()
}

fn varint(value: i64) -> Vec<u8> {
    unsigned(((value << 1) ^ (value >> 63)) as u64)
}

fn unsigned(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}
