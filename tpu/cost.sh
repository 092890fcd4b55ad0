#!/usr/bin/env bash
# Estimates what a run costs: chips x hours x price of a chip hour (prices.tsv, or --price). The hours are --hours, or come
# from `jaxalign plan CONFIG --topology T --json > plan.json`: --plan plan.json, with --steps N if it has no total.
#
#   tpu/cost.sh --topology v5p:4x4x4 [--slices 2] --hours 12 [--spot] [--price 1.5]
#   tpu/cost.sh --topology v5p:4x4x4 --plan plan.json [--steps 5000]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/all.sh"
opt_hours='' opt_plan='' opt_steps='' opt_price=''
verb_values="hours plan steps price"
parse "$@"
look_up_topology
total=$((chips * opt_slices))
number='^[0-9]+([.][0-9]+)?([eE][-+]?[0-9]+)?$'

# The first number behind a key of the plan, wherever it stands; empty if there is none.
planned() {
  tr -d '\n' < "$opt_plan" | grep -Eo "\"$1\" *: *[0-9][0-9.eE+-]*" | head -n 1 | sed 's/.*: *//' || true
}

# a * b / c with a printf format: shells have no fractions.
ratio() { awk -v a="$1" -v b="$2" -v c="$3" -v f="$4" 'BEGIN { printf f, a * b / c }'; }

set_hours() {
  local chip_hours seconds
  if [[ -n $opt_hours ]]; then
    hours=$opt_hours from="--hours"
    return
  fi
  need plan
  [[ -f $opt_plan ]] || die "no such plan: $opt_plan"
  chip_hours=$(planned chip_hours_estimate)
  seconds=$(planned step_seconds_estimate)
  if [[ -n $opt_steps ]]; then
    [[ $opt_steps =~ $number ]] || die "--steps is a number, not '$opt_steps'"
    [[ -n $seconds ]] || die "$opt_plan has no step_seconds_estimate: give --hours"
    hours=$(ratio "$opt_steps" "$seconds" 3600 %.6g) from="$opt_steps steps of $seconds s, $opt_plan"
  elif [[ -n $chip_hours ]]; then
    hours=$(ratio "$chip_hours" 1 "$total" %.6g) from="chip_hours_estimate of $opt_plan"
  else
    die "$opt_plan has no chip_hours_estimate: give --steps or --hours"
  fi
}

set_price() {
  local generation region on_demand spot date source
  price=$opt_price origin="--price"
  [[ -z $price ]] || return 0
  while IFS=$'\t' read -r generation region on_demand spot date source; do
    [[ $generation == "${opt_topology%%:*}" ]] && break
  done < "$here/prices.tsv"
  price=$on_demand tier="on demand"
  [[ -z $opt_spot ]] || price=$spot tier=spot
  [[ $price != - ]] || die "the $tier price of $generation is not in prices.tsv: look it up and give --price"
  origin="$tier, $region, $date: $source"
}

set_hours
set_price
[[ $hours =~ $number ]] || die "--hours is a number, not '$hours'"
[[ $price =~ $number ]] || die "--price is a number, not '$price'"
printf '%s x %s: %s chips, %s hosts\n' "$opt_slices" "$accelerator_type" "$total" "$((hosts * opt_slices))"
printf '%s hours (%s)\n' "$hours" "$from"
printf '%s USD a chip hour (%s)\n' "$price" "$origin"
printf '%s USD, an estimate: check the price at https://cloud.google.com/tpu/pricing; waiting and set-up are billed too\n' \
  "$(awk -v n="$total" -v h="$hours" -v p="$price" 'BEGIN { printf "%.2f", n * h * p }')"
