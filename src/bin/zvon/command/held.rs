//! `zvon held`: what is not shown, and why.

use std::fmt::Write as _;

use zvon::{Held, HeldEntity, UnknownName, UntranslatedReference};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::Answer;
use crate::text::{self, Lean};

pub async fn run(context: &Context) -> Result<Answer, Failure> {
    let (_, replica) = context.open().await?;
    let held = replica.held().await?;
    Ok(Answer::new(&held, words(&held)))
}

fn words(held: &Held) -> String {
    if held.rows.is_empty() && held.unknown.is_empty() && held.references.is_empty() {
        return "Nothing is held: the tables show everything.\n".to_owned();
    }
    let mut out = String::new();
    if !held.rows.is_empty() {
        let count = text::rows(held.rows.len() as u64);
        let _ = writeln!(out, "{count} not shown, kept until what stands in the way changes:");
        let lines: Vec<Vec<String>> = held.rows.iter().map(row).collect();
        out += &text::columns(2, &[Lean::Left; 4], &lines);
    }
    if !held.unknown.is_empty() {
        let _ = writeln!(out, "Changes that wait for a table or column that is not here, or not tracked:");
        let lines: Vec<Vec<String>> = held.unknown.iter().map(unknown).collect();
        out += &text::columns(2, &[Lean::Left; 2], &lines);
    }
    if !held.references.is_empty() {
        let _ = writeln!(out, "References to rows that are not here, sent once the rows are:");
        let lines: Vec<Vec<String>> = held.references.iter().map(reference).collect();
        out += &text::columns(2, &[Lean::Left; 2], &lines);
    }
    out
}

fn reference(left: &UntranslatedReference) -> Vec<String> {
    let table = text::plain(&left.table);
    let what = match &left.column {
        Some(column) => format!("column {table}.{}", text::plain(column)),
        None => format!("row of {table}"),
    };
    vec![what, text::plain(&left.row)]
}

fn row(held: &HeldEntity) -> Vec<String> {
    [&held.table, &held.row, &held.reason, &held.detail].map(|text| text::plain(text)).to_vec()
}

fn unknown(name: &UnknownName) -> Vec<String> {
    let table = text::plain(&name.table);
    let what = match &name.column {
        Some(column) => format!("column {table}.{}", text::plain(column)),
        None => format!("table {table}"),
    };
    vec![what, text::changes(name.changes)]
}
