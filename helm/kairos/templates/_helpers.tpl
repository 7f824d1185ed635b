{{/* What never changes about a service: its port, the prefix of its settings, its schema and package. */}}
{{- define "kairos.catalogue" -}}
bot-worker: {port: 5050, prefix: KAIROS_BOTS, schema: bots, package: kairos_bots}
llm-router: {port: 5051, prefix: KAIROS_ROUTER, schema: router, package: kairos_router}
budget-analytics: {port: 5052, prefix: KAIROS_BUDGET, schema: budget, package: kairos_budget}
auth-audit: {port: 5053, prefix: KAIROS_AUTH, schema: auth, package: kairos_auth}
observability: {port: 5054, prefix: KAIROS_OPS, schema: ops, package: kairos_ops}
{{- end -}}

{{- define "kairos.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "kairos.secret" -}}
{{- .Values.existingSecret | default (printf "%s-secrets" (include "kairos.name" .)) -}}
{{- end -}}

{{- define "kairos.tag" -}}
{{- .Values.image.tag | default .Chart.AppVersion -}}
{{- end -}}

{{- define "kairos.labels" -}}
app.kubernetes.io/name: kairos
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ include "kairos.tag" . | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: kairos
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* component selector: (list $ "component") */}}
{{- define "kairos.selector" -}}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Pod Security "restricted" */}}
{{- define "kairos.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "kairos.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "kairos.postgresHost" -}}
{{- if .Values.postgres.bundled -}}{{ include "kairos.name" . }}-postgres{{- else -}}{{ required "postgres.externalHost is needed when postgres.bundled is false" .Values.postgres.externalHost }}{{- end -}}
{{- end -}}

{{- define "kairos.postgresPort" -}}
{{- if .Values.postgres.bundled -}}5432{{- else -}}{{ .Values.postgres.externalPort }}{{- end -}}
{{- end -}}

{{/* One variable from the suite's secret: (list $ "NAME" "key") */}}
{{- define "kairos.fromSecret" -}}
- name: {{ index . 1 }}
  valueFrom: {secretKeyRef: {name: {{ include "kairos.secret" (index . 0) }}, key: {{ index . 2 }}}}
{{- end -}}

{{- define "kairos.amqpEnv" -}}
{{- $prefix := index . 1 -}}
{{- with index . 0 -}}
{{- if .Values.rabbitmq.bundled }}
{{ include "kairos.fromSecret" (list . "RABBITMQ_PASSWORD" "rabbitmq-password") }}
- name: {{ $prefix }}_AMQP_URL
  value: amqp://kairos:$(RABBITMQ_PASSWORD)@{{ include "kairos.name" . }}-rabbitmq:5672/
{{- else }}
- name: {{ $prefix }}_AMQP_URL
  valueFrom: {secretKeyRef: {name: {{ required "rabbitmq.externalSecret is needed when rabbitmq.bundled is false" .Values.rabbitmq.externalSecret }}, key: url}}
{{- end }}
{{- end -}}
{{- end -}}

{{- define "kairos.redisEnv" -}}
{{- $prefix := index . 1 -}}
{{- with index . 0 -}}
{{- if .Values.redis.bundled }}
- name: {{ $prefix }}_REDIS_URL
  value: redis://{{ include "kairos.name" . }}-redis:6379/0
{{- else }}
- name: {{ $prefix }}_REDIS_URL
  valueFrom: {secretKeyRef: {name: {{ required "redis.externalSecret is needed when redis.bundled is false" .Values.redis.externalSecret }}, key: url}}
{{- end }}
{{- end -}}
{{- end -}}
