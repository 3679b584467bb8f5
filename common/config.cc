#include "common/config.h"

#include <absl/strings/numbers.h>
#include <absl/strings/str_split.h>
#include <absl/time/civil_time.h>
#include <absl/time/time.h>
#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <sstream>

namespace savior {
namespace {

using Buckets = std::map<std::string, std::string>;

std::string Quoted(const std::string& text) {
  std::ostringstream out;
  using toml::format_flags;
  // Double quotes always, as people write them.
  const format_flags flags =
      toml::toml_formatter::default_flags &
      ~(format_flags::allow_literal_strings | format_flags::allow_multi_line_strings);
  out << toml::toml_formatter(toml::value<std::string>(text), flags);
  return out.str();
}

// A double that reads back to the same bits, and looks like a float in TOML.
std::string Number(double value) {
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".en") == std::string::npos) text += ".0";
  return text;
}

std::string Print(const ConfigField& field) {
  return std::visit(
      [](auto* value) -> std::string {
        using T = std::remove_pointer_t<decltype(value)>;
        if constexpr (std::is_same_v<T, bool>) {
          return *value ? "true" : "false";
        } else if constexpr (std::is_same_v<T, int64_t>) {
          return fmt::format("{}", *value);
        } else if constexpr (std::is_same_v<T, double>) {
          return Number(*value);
        } else if constexpr (std::is_same_v<T, std::string>) {
          return Quoted(*value);
        } else {
          std::string text = "{";
          for (const auto& [name, predicate] : *value) {
            text += fmt::format("{}{} = {}", text.size() > 1 ? ", " : "", Quoted(name),
                                Quoted(predicate));
          }
          return text + "}";
        }
      },
      field.value);
}

absl::Status Invalid(const std::string& where, const ConfigField& field, const std::string& what) {
  return absl::InvalidArgumentError(
      fmt::format("{}: {} = {}: {}", where, field.key, Print(field), what));
}

absl::Status CheckBounds(const std::string& where, const ConfigField& field) {
  double number = 0;
  if (auto* const* integer = std::get_if<int64_t*>(&field.value)) {
    number = static_cast<double>(**integer);
  } else if (auto* const* real = std::get_if<double*>(&field.value)) {
    number = **real;
    if (!std::isfinite(number)) return Invalid(where, field, "must be a finite number");
  } else if (auto* const* text = std::get_if<std::string*>(&field.value)) {
    if (field.choices.empty() || std::ranges::count(field.choices, **text)) return absl::OkStatus();
    return Invalid(where, field,
                   fmt::format("must be one of {}; nearest is \"{}\"",
                               fmt::join(field.choices, ", "), Nearest(**text, field.choices)));
  } else {
    return absl::OkStatus();
  }
  if (field.above_min ? !(number > field.min) : !(number >= field.min)) {
    return Invalid(where, field,
                   fmt::format("must be {} {}", field.above_min ? ">" : ">=", field.min));
  }
  if (!(number <= field.max)) return Invalid(where, field, fmt::format("must be <= {}", field.max));
  return absl::OkStatus();
}

absl::Status ReadBuckets(const std::string& where, const std::string& key, const toml::node& node,
                         Buckets* buckets) {
  const toml::table* table = node.as_table();
  if (!table) return absl::InvalidArgumentError(fmt::format("{}: {}: must be a table", where, key));
  buckets->clear();
  (*buckets)["all"] = "";
  for (const auto& [name, predicate] : *table) {
    const auto text = predicate.value_exact<std::string>();
    if (!text) {
      return absl::InvalidArgumentError(
          fmt::format("{}: {}.{}: must be a string, e.g. \"age_days <= 56\"", where, key,
                      std::string(name.str())));
    }
    (*buckets)[std::string(name.str())] = *text;
  }
  return absl::OkStatus();
}

// Takes `node` as the value of `field`.
absl::Status Assign(const std::string& where, const ConfigField& field, const toml::node& node) {
  const char* expected = "";
  if (auto* const* flag = std::get_if<bool*>(&field.value)) {
    if (auto value = node.value_exact<bool>()) return **flag = *value, absl::OkStatus();
    expected = "true or false";
  } else if (auto* const* integer = std::get_if<int64_t*>(&field.value)) {
    if (auto value = node.value_exact<int64_t>()) {
      return **integer = *value, CheckBounds(where, field);
    }
    expected = "an integer";
  } else if (auto* const* real = std::get_if<double*>(&field.value)) {
    if (auto value = node.value<double>(); value && node.is_number()) {
      return **real = *value, CheckBounds(where, field);
    }
    expected = "a number";
  } else if (auto* const* text = std::get_if<std::string*>(&field.value)) {
    if (auto value = node.value_exact<std::string>()) {
      return **text = *value, CheckBounds(where, field);
    }
    expected = "a string in quotes";
  } else {
    return ReadBuckets(where, field.key, node, std::get<Buckets*>(field.value));
  }
  std::ostringstream found;
  node.visit([&found](const auto& value) { found << value; });
  return absl::InvalidArgumentError(
      fmt::format("{}: {} = {}: must be {}", where, field.key, found.str(), expected));
}

std::vector<std::string> Keys(const std::vector<ConfigField>& fields) {
  std::vector<std::string> keys;
  keys.reserve(fields.size());
  for (const ConfigField& field : fields) keys.push_back(field.key);
  return keys;
}

absl::Status UnknownKey(const std::string& where, const std::string& key,
                        const std::vector<ConfigField>& fields) {
  return absl::InvalidArgumentError(
      fmt::format("{}: {}: no such key; nearest is {}", where, key, Nearest(key, Keys(fields))));
}

const ConfigField* Find(const std::vector<ConfigField>& fields, std::string_view key) {
  const auto found = std::ranges::find(fields, key, &ConfigField::key);
  return found == fields.end() ? nullptr : &*found;
}

// Whether keys lie below `name`.
bool IsSection(const std::vector<ConfigField>& fields, const std::string& name) {
  return std::ranges::any_of(
      fields, [&](const ConfigField& field) { return field.key.starts_with(name + "."); });
}

absl::Status ReadTable(const std::string& where, const std::string& prefix,
                       const toml::table& table, const std::vector<ConfigField>& fields) {
  for (const auto& [name, node] : table) {
    const std::string key = prefix + std::string(name.str());
    if (const ConfigField* field = Find(fields, key)) {
      SAVIOR_RETURN_IF_ERROR(Assign(where, *field, node));
    } else if (node.is_table() && (IsSection(fields, key) || !node.as_table()->empty())) {
      // Of an unknown section, its first key says best what was meant.
      SAVIOR_RETURN_IF_ERROR(ReadTable(where, key + ".", *node.as_table(), fields));
    } else {
      return UnknownKey(where, key, fields);
    }
  }
  return absl::OkStatus();
}

// One `key=value`; strings may come without quotes.
absl::Status Override(const std::string& text, const std::vector<ConfigField>& fields) {
  const std::string where = "command line";
  const size_t equals = text.find('=');
  if (equals == std::string::npos) {
    return absl::InvalidArgumentError(fmt::format("{}: {}: must be key=value", where, text));
  }
  const std::string key = text.substr(0, equals);
  const std::string value = text.substr(equals + 1);
  const ConfigField* field = Find(fields, key);
  if (!field) {
    constexpr std::string_view kBuckets = "eval.buckets.";
    if (key.starts_with(kBuckets)) {
      (*std::get<Buckets*>(Find(fields, "eval.buckets")->value))[key.substr(kBuckets.size())] =
          value;
      return absl::OkStatus();
    }
    return UnknownKey(where, key, fields);
  }
  if (auto* const* target = std::get_if<std::string*>(&field->value)) {
    const bool quoted = value.size() >= 2 && value.front() == '"' && value.back() == '"';
    **target = quoted ? value.substr(1, value.size() - 2) : value;
    return CheckBounds(where, *field);
  }
  try {
    const toml::table parsed = toml::parse("x = " + value);
    return Assign(where, *field, *parsed.get("x"));
  } catch (const toml::parse_error&) {
    return absl::InvalidArgumentError(fmt::format("{}: {} = {}: not a value", where, key, value));
  }
}

absl::Status CheckPrefixes(const std::string& where, const Config& config) {
  if (!config.model.prefix_ngrams) return absl::OkStatus();
  // What a key has room for (worker/tables.h).
  constexpr double kMostPrefixes = 35184372088832.0;  // 2^45
  const auto levels = config.codebook.levels, codes = config.codebook.codes;
  const std::string key = where + ": model.prefix_ngrams = true: ";
  if (levels < 2) {
    return absl::InvalidArgumentError(
        key + "codebook.levels = 1 has no prefixes: set 2 levels or more, or false");
  }
  if (std::pow(static_cast<double>(codes), static_cast<double>(levels)) > kMostPrefixes) {
    return absl::InvalidArgumentError(fmt::format(
        "{}codebook.codes = {} to the power of codebook.levels = {} must be at most 2^45", key,
        codes, levels));
  }
  if (config.refresh.remap == "hungarian") {
    return absl::InvalidArgumentError(
        key +
        "refresh.remap = \"hungarian\" looks for a permutation, and prefixes are too many "
        "for it: choose another");
  }
  return absl::OkStatus();
}

absl::Status CheckTogether(const std::string& where, const Config& config) {
  const auto multiple = [&](const char* key, int64_t value) {
    return value % 4 == 0 ? absl::OkStatus()
                          : absl::InvalidArgumentError(fmt::format(
                                "{}: {} = {}: must be a multiple of 4", where, key, value));
  };
  SAVIOR_RETURN_IF_ERROR(multiple("encoder.dim", config.encoder.dim));
  SAVIOR_RETURN_IF_ERROR(multiple("model.id_dim", config.model.id_dim));
  SAVIOR_RETURN_IF_ERROR(multiple("model.feature_dim", config.model.feature_dim));
  if (config.encoder.refreshable && config.encoder.kind == "pca") {
    return absl::InvalidArgumentError(
        where +
        ": encoder.refreshable = true, and encoder.kind = \"pca\" has nothing to train on: "
        "choose \"swing_residual\", or false");
  }
  SAVIOR_RETURN_IF_ERROR(CheckPrefixes(where, config));
  SAVIOR_RETURN_IF_ERROR(Annotate(ParseSizes(config.model.dnn).status(), where + ": model.dnn"));
  SAVIOR_RETURN_IF_ERROR(
      Annotate(ParseSizes(config.model.tower).status(), where + ": model.tower"));
  int64_t previous = std::numeric_limits<int64_t>::min();
  const std::pair<const char*, const std::string*> dates[] = {
      {"data.train_from", &config.data.train_from},
      {"data.train_until", &config.data.train_until},
      {"data.eval_from", &config.data.eval_from},
      {"data.eval_until", &config.data.eval_until}};
  for (const auto& [key, date] : dates) {
    if (date->empty()) continue;  // whoever needs it says so
    auto seconds = ParseDate(*date);
    if (!seconds.ok()) return Annotate(seconds.status(), fmt::format("{}: {}", where, key));
    if (*seconds < previous) {
      return absl::InvalidArgumentError(
          fmt::format("{}: {} = \"{}\": lies before the date above it (order: train_from, "
                      "train_until, eval_from, eval_until)",
                      where, key, *date));
    }
    previous = *seconds;
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<std::string> Config::Eval::bucket_order() const {
  std::vector<std::string> order = {"all"};
  for (const auto& [name, predicate] : buckets) {
    if (name != "all") order.push_back(name);
  }
  return order;
}

absl::StatusOr<Config> LoadConfig(const std::string& path,
                                  const std::vector<std::string>& overrides) {
  Config config;
  const std::vector<ConfigField> fields = ConfigFields(config);
  if (!path.empty()) {
    if (!std::filesystem::exists(path)) {
      return absl::NotFoundError(fmt::format("{}: no such configuration file", path));
    }
    if (std::filesystem::is_directory(path)) {
      return absl::InvalidArgumentError(
          fmt::format("{}: is a folder, not a configuration file", path));
    }
    try {
      SAVIOR_RETURN_IF_ERROR(ReadTable(path, "", toml::parse_file(path), fields));
    } catch (const toml::parse_error& error) {
      return absl::InvalidArgumentError(fmt::format("{}:{}: {}", path, error.source().begin.line,
                                                    std::string(error.description())));
    }
  }
  for (const std::string& text : overrides) SAVIOR_RETURN_IF_ERROR(Override(text, fields));
  SAVIOR_RETURN_IF_ERROR(CheckTogether(path.empty() ? "configuration" : path, config));
  return config;
}

absl::StatusOr<Config> ParseConfig(const std::string& toml) {
  Config config;
  try {
    SAVIOR_RETURN_IF_ERROR(ReadTable("configuration", "", toml::parse(toml), ConfigFields(config)));
  } catch (const toml::parse_error& error) {
    return absl::InvalidArgumentError(
        fmt::format("configuration: {}", std::string(error.description())));
  }
  return config;
}

std::string ToToml(const Config& config) {
  Config copy = config;
  std::string text, section;
  for (const ConfigField& field : ConfigFields(copy)) {
    const size_t dot = field.key.find('.');
    const std::string now = dot == std::string::npos ? "" : field.key.substr(0, dot);
    if (now != section) text += fmt::format("\n[{}]\n", section = now);
    text +=
        fmt::format("{} = {}\n", dot == std::string::npos ? field.key : field.key.substr(dot + 1),
                    Print(field));
  }
  return text;
}

std::vector<std::string> DifferentKeys(const Config& a, const Config& b) {
  Config left = a, right = b;
  const auto lefts = ConfigFields(left), rights = ConfigFields(right);
  std::vector<std::string> different;
  for (size_t i = 0; i < lefts.size(); ++i) {
    if (Print(lefts[i]) != Print(rights[i])) {
      different.push_back(
          fmt::format("{} ({} | {})", lefts[i].key, Print(lefts[i]), Print(rights[i])));
    }
  }
  return different;
}

std::string ConfigurationPage() {
  Config defaults;
  std::string text =
      "# Configuration\n\nGenerated by `savior train --print-configuration-page`; a test fails "
      "when it is stale.\n\n"
      "Precedence: defaults < file < `key=value` on the command line. An unknown key is an error "
      "that names the "
      "nearest one. The resolved configuration is saved as `resolved.toml` in the run folder.\n\n"
      "| key | default | bounds | meaning |\n|---|---|---|---|\n";
  for (const ConfigField& field : ConfigFields(defaults)) {
    std::string bounds;
    if (!field.choices.empty()) bounds = fmt::format("{}", fmt::join(field.choices, ", "));
    if (std::isfinite(field.min))
      bounds = fmt::format("{} {}", field.above_min ? ">" : ">=", field.min);
    if (std::isfinite(field.max)) bounds += fmt::format(", <= {}", field.max);
    text += fmt::format("| `{}` | `{}` | {} | {} |\n", field.key, Print(field), bounds, field.doc);
  }
  return text;
}

std::string Nearest(std::string_view word, const std::vector<std::string>& candidates) {
  const auto distance = [](std::string_view a, std::string_view b) {
    std::vector<size_t> row(b.size() + 1);
    std::iota(row.begin(), row.end(), size_t{0});
    for (size_t i = 1; i <= a.size(); ++i) {
      size_t diagonal = row[0]++;
      for (size_t j = 1; j <= b.size(); ++j) {
        const size_t above = row[j];
        row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
        diagonal = above;
      }
    }
    return row.back();
  };
  return *std::ranges::min_element(candidates, {},
                                   [&](const std::string& c) { return distance(word, c); });
}

absl::StatusOr<int64_t> ParseDate(const std::string& date) {
  absl::CivilDay day;
  if (date.size() == 10 && absl::ParseCivilTime(date, &day)) {
    return absl::ToUnixSeconds(absl::FromCivil(day, absl::UTCTimeZone()));
  }
  return absl::InvalidArgumentError(fmt::format("\"{}\" is not a date like 2017-04-30", date));
}

std::string FormatDate(int64_t seconds) {
  return absl::FormatTime("%Y-%m-%d", absl::FromUnixSeconds(seconds), absl::UTCTimeZone());
}

absl::StatusOr<std::vector<int64_t>> ParseSizes(const std::string& sizes) {
  std::vector<int64_t> numbers;
  if (sizes.empty()) return numbers;
  const std::vector<std::string> parts = absl::StrSplit(sizes, ',');
  for (const std::string& part : parts) {
    int64_t number = 0;
    if (!absl::SimpleAtoi(part, &number) || number < 1 || number > 65536) {
      return absl::InvalidArgumentError(
          fmt::format("\"{}\" is not a list of layer sizes (1 to 65536) like 256,128", sizes));
    }
    numbers.push_back(number);
  }
  return numbers;
}

}  // namespace savior
