# The results as tables: the ratios of all rows, six in a table, then each row with what else was measured.
END {
  print "\nCPU per request, as ratio to " titles[base] " within each round: the median of " rounds \
    (rounds == 1 ? " round" : " rounds") ", and what half of them lie between."
  for (first = 1; first <= kinds; first += 6) ratios(first, first + 5 < kinds ? first + 5 : kinds)
  for (r = 1; r <= kinds; r++) {
    print "\n| " rows[r] " | µs per request | in user mode | half of the rounds | ratio | p99 ms | requests/s | RSS MB |"
    print "|---|---|---|---|---|---|---|---|"
    for (i = 1; i <= contestants; i++)
      printf "| %s | %.1f | %.1f | %.1f to %.1f | %.2f | %.2f | %.0f | %.0f |\n", titles[names[i]],
        median(rows[r], names[i], COST), median(rows[r], names[i], USER), low(rows[r], names[i], COST),
        high(rows[r], names[i], COST), median(rows[r], names[i], RATIO), median(rows[r], names[i], P99),
        median(rows[r], names[i], RATE), median(rows[r], names[i], RSS)
  }
}

# The rows of one table.
function ratios(first, last,    head, line, r, i) {
  head = "\n| contestant |"; line = "|---|"
  for (r = first; r <= last; r++) { head = head " " rows[r] " |"; line = line "---|" }
  print head "\n" line
  for (i = 1; i <= contestants; i++) {
    printf "| %s |", titles[names[i]]
    for (r = first; r <= last; r++) printf " %s |", share(rows[r], names[i])
    print ""
  }
}

function share(row, name) {
  if (name == base) return sprintf("1.00 (%.1f µs)", median(row, name, COST))
  return sprintf("%.2f (%.2f to %.2f)", median(row, name, RATIO), low(row, name, RATIO), high(row, name, RATIO))
}
