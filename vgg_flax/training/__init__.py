"""How a head is fitted: batches (`feed`), steps (`task`, `regression`), epochs (`fit`), the run's folder (`runs`)."""
