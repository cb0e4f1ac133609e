# Reads the results for what is printed of them, which is in another file. Input: first a file of contestants and their
# titles, then the lines of all rounds.
#
# A ratio is one of a round: a machine that is slow for half a minute is so for all contestants, as a rule. It is to nginx,
# or to the first contestant where nginx is not measured.
BEGIN {
  FS = "\t"
  COST = 4; USER = 5; P99 = 6; RATE = 7; RSS = 8; RATIO = 9
}
FNR == 1 { file++ }
file == 1 { names[++contestants] = $1; titles[$1] = $2; if ($1 == "nginx") base = $1; next }
FNR == 1 { next }
!($2 in known) { rows[++kinds] = $2; known[$2] = 1 }
{
  if ($1 > rounds) rounds = $1
  for (field = COST; field <= RSS; field++) value[$2, $3, field, $1] = $field
}
END {
  if (base == "") base = names[1]
  for (r = 1; r <= kinds; r++)
    for (i = 1; i <= contestants; i++)
      for (round = 1; round <= rounds; round++)
        if ((rows[r], names[i], COST, round) in value && value[rows[r], base, COST, round] > 0)
          value[rows[r], names[i], RATIO, round] = value[rows[r], names[i], COST, round] / value[rows[r], base, COST, round]
}

# Fills `sorted` with the values of all rounds and returns how many there are.
function sort(row, name, field,    round, n, i) {
  for (round = 1; round <= rounds; round++)
    if ((row, name, field, round) in value) {
      for (i = n++; i >= 1 && sorted[i] > value[row, name, field, round]; i--) sorted[i + 1] = sorted[i]
      sorted[i + 1] = value[row, name, field, round]
    }
  return n + 0
}

function median(row, name, field,    n) {
  n = sort(row, name, field)
  return n % 2 ? sorted[(n + 1) / 2] : (sorted[n / 2] + sorted[n / 2 + 1]) / 2
}

# At least half of the rounds lie between these two, with as many below as above.
function low(row, name, field,    n) { n = sort(row, name, field); return sorted[int(n / 4) + 1] }
function high(row, name, field,    n) { n = sort(row, name, field); return sorted[n - int(n / 4)] }
