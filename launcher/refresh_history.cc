#include "launcher/refresh_history.h"

#include <algorithm>
#include <utility>

#include "launcher/json_lines.h"
#include "launcher/run_folder.h"

namespace savior {
namespace {

using Json = nlohmann::ordered_json;
using Fate = CodebookRefresh::Fate;

// Lines are files' contents: a member of another type reads as if it were absent.
const Json* Member(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() ? nullptr : &*found;
}

std::optional<double> Number(const Json& object, const char* key) {
  const Json* const member = Member(object, key);
  if (member == nullptr || !member->is_number()) return std::nullopt;
  return member->get<double>();
}

std::optional<int64_t> Integer(const Json& object, const char* key) {
  const Json* const member = Member(object, key);
  if (member == nullptr || !member->is_number_integer()) return std::nullopt;
  return member->get<int64_t>();
}

std::string Text(const Json& object, const char* key) {
  const Json* const member = Member(object, key);
  return member != nullptr && member->is_string() ? member->get<std::string>() : std::string();
}

void AddOutcome(const Json& line, RefreshOutcome* outcome) {
  const auto take = [&line](const char* key, std::optional<double>* to) {
    if (const auto number = Number(line, key)) *to = number;
  };
  take("contents", &outcome->contents);
  take("rq_mse_before", &outcome->rq_mse_before);
  take("rq_mse", &outcome->rq_mse);
  take("preserved_r2", &outcome->preserved_r2);
  take("cpu_s", &outcome->cpu_s);
  take("wall_s", &outcome->wall_s);
  if (const Json* const auc = Member(line, "replay_auc")) {
    outcome->auc_before = Number(*auc, "before");
    outcome->auc_after = Number(*auc, "after");
  }
  const Json* const levels = Member(line, "levels");
  if (levels == nullptr || !levels->is_array()) return;
  outcome->levels.clear();
  for (const Json& level : *levels) {
    outcome->levels.push_back(
        {Number(level, "perplexity").value_or(0), Number(level, "dead").value_or(0),
         Number(level, "largest_share").value_or(0), Number(level, "churn").value_or(0)});
  }
}

bool WasInUse(const CodebookRefresh& refresh) {
  return refresh.fate == Fate::kProbation || refresh.fate == Fate::kActive ||
         refresh.fate == Fate::kRetired;
}

// The lines, one after the other.
class Teller {
 public:
  explicit Teller(RefreshHistory* history) : refreshes_(history->refreshes), history_(*history) {}

  void Tell(const Json& line) {
    const std::string state = Text(line, "state");
    const auto version = static_cast<uint32_t>(Integer(line, "version").value_or(0));
    const RefreshEvent event{state, Integer(line, "step"), Integer(line, "time"),
                             Number(line, "stood_still_ms")};
    if (state == "REFUSED") {
      history_.refused.push_back(Text(line, "why"));
    } else if (state == "ROLLED_BACK") {
      RollBackTo(version, event);
    } else {
      CodebookRefresh& refresh = Of(version, state);
      refresh.events.push_back(event);
      AddOutcome(line, &refresh.outcome);
      Change(line, event, &refresh);
    }
  }

 private:
  // The attempt at `version` that a line in `state` is about: the latest, or a new one.
  CodebookRefresh& Of(uint32_t version, const std::string& state) {
    // An abort is of the refresh that is under way: old lines name the version that stays.
    if (state == "ABORTED" && !refreshes_.empty() && refreshes_.back().fate == Fate::kBuilding) {
      return refreshes_.back();
    }
    const auto latest = std::ranges::find(refreshes_.rbegin(), refreshes_.rend(), version,
                                          &CodebookRefresh::version);
    const bool there = latest != refreshes_.rend();
    if (there && state != "BUILDING") return *latest;
    // It begins again: what was, was not durable. So was whatever came after.
    for (CodebookRefresh& r : refreshes_) {
      const bool open = r.fate == Fate::kBuilding || WasInUse(r);
      if (there && r.version >= version && open) r.fate = Fate::kInterrupted;
    }
    refreshes_.emplace_back().version = version;
    return refreshes_.back();
  }

  void Change(const Json& line, const RefreshEvent& event, CodebookRefresh* refresh) {
    if (event.state == "BUILDING") {
      refresh->why = Text(line, "why");
    } else if (event.state == "ABORTED") {
      refresh->fate = Fate::kAborted;
      refresh->why_not = Text(line, "why");
    } else if (event.state == "ACTIVE") {
      refresh->fate = Fate::kProbation;
      refresh->switched = event.step;
      history_.first = Fate::kRetired;
      for (CodebookRefresh& r : refreshes_) {
        if (&r != refresh && WasInUse(r)) r.fate = Fate::kRetired;
      }
    } else if (event.state == "RETIRED" && refresh->fate == Fate::kProbation) {
      refresh->fate = Fate::kActive;
    }
  }

  void RollBackTo(uint32_t version, const RefreshEvent& event) {
    for (CodebookRefresh& r : refreshes_) {
      if (r.version <= version || !(WasInUse(r) || r.fate == Fate::kBuilding)) continue;
      const bool was_in_use = WasInUse(r);
      r.fate = was_in_use ? Fate::kRolledBack : Fate::kInterrupted;
      if (!was_in_use) continue;
      RefreshEvent back = event;
      if (!back.step) back.step = r.switched;
      r.events.push_back(std::move(back));
    }
    InUse(version, Fate::kActive);
  }

  void InUse(uint32_t version, Fate fate) {
    if (version == 0) history_.first = fate;
    const auto latest = std::ranges::find_if(
        refreshes_.rbegin(), refreshes_.rend(),
        [&](const CodebookRefresh& r) { return r.version == version && WasInUse(r); });
    if (latest != refreshes_.rend()) latest->fate = fate;
  }

  std::vector<CodebookRefresh>& refreshes_;
  RefreshHistory& history_;
};

// Where the commit says something else than the lines, it is right.
void Reconcile(const CommitManifest& newest, RefreshHistory* history) {
  const CodebookState& state = newest.codebook;
  const bool rolled_back = state.by_hand_only || state.previous > state.version;
  const Fate fate = state.probation && !rolled_back ? Fate::kProbation : Fate::kActive;
  if (state.version == 0) history->first = fate;
  bool found = false;
  for (auto r = history->refreshes.rbegin(); r != history->refreshes.rend(); ++r) {
    if (!WasInUse(*r)) continue;
    if (r->version > state.version) {
      const bool behind = r->switched && *r->switched < newest.step;
      r->fate = rolled_back ? Fate::kRolledBack : behind ? Fate::kInterrupted : Fate::kUncommitted;
    } else if (r->version == state.version && !std::exchange(found, true)) {
      r->fate = fate;
    }
  }
}

// What a rollback would go back to.
void MarkKept(RefreshHistory* history) {
  const auto in_use = std::ranges::find_if(
      history->refreshes.rbegin(), history->refreshes.rend(), [](const CodebookRefresh& r) {
        return r.fate == Fate::kProbation || r.fate == Fate::kUncommitted;
      });
  if (in_use == history->refreshes.rend() || in_use->version == 0) return;
  const uint32_t before = in_use->version - 1;
  const auto kept = std::find_if(in_use, history->refreshes.rend(), [&](const CodebookRefresh& r) {
    return r.version == before && r.fate == Fate::kRetired;
  });
  if (kept != history->refreshes.rend()) {
    kept->fate = Fate::kKept;
  } else if (before == 0) {
    history->first = Fate::kKept;
  }
}

}  // namespace

const char* NameOf(Fate fate) {
  switch (fate) {
    case Fate::kBuilding:
      return "building";
    case Fate::kUncommitted:
      return "not committed yet";
    case Fate::kProbation:
      return "probation";
    case Fate::kActive:
      return "active";
    case Fate::kKept:
      return "kept";
    case Fate::kRetired:
      return "retired";
    case Fate::kRolledBack:
      return "rolled back";
    case Fate::kAborted:
      return "aborted";
    case Fate::kInterrupted:
      return "interrupted";
  }
  return "unknown";
}

RefreshHistory TellRefreshes(const std::vector<Json>& lines, const CommitManifest* newest) {
  RefreshHistory history;
  Teller teller(&history);
  for (const Json& line : lines) teller.Tell(line);
  if (newest != nullptr) Reconcile(*newest, &history);
  MarkKept(&history);
  return history;
}

absl::StatusOr<RefreshHistory> ReadRefreshHistory(const std::filesystem::path& run,
                                                  const CommitManifest* newest) {
  SAVIOR_ASSIGN_OR_RETURN(const std::vector<Json> lines, ReadJsonLines(run / kRefreshFile));
  return TellRefreshes(lines, newest);
}

double Utilisation(const RefreshLevel& level, int64_t codes) {
  return codes > 0 ? 1 - level.dead / static_cast<double>(codes) : 0;
}

}  // namespace savior
