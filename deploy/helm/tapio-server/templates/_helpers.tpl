{{- /* Names of objects. Beside the agents, in one release, they are others than the release's. */ -}}
{{- define "server.name" -}}
{{ .Values.nameOverride | default .Release.Name }}
{{- end }}

{{- define "server.selector" -}}
app.kubernetes.io/name: tapio-server
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "server.portti" -}}
app.kubernetes.io/name: tapio-server
app.kubernetes.io/component: portti
{{- end }}

{{- define "server.ahti" -}}
app.kubernetes.io/name: tapio-server
app.kubernetes.io/component: ahti
{{- end }}

{{- /* What the server reads; the pod is made anew when it changes. */ -}}
{{- define "server.config" -}}
{{- $config := deepCopy .Values.config }}
{{- if .Values.api.tlsSecret }}
{{- $files := dict "cert" "/etc/tapio-server-tls/tls.crt" "key" "/etc/tapio-server-tls/tls.key" }}
{{- $_ := set $config "ahti" (merge ($config.ahti | default dict) $files) }}
{{- end }}
{{- toYaml $config }}
{{ end }}

{{- /* Which objects of Kubernetes targets of `notify` write: "events", "incidents". */ -}}
{{- define "server.writes" -}}
{{- range .Values.config.notify }}
{{- $kubernetes := (. | default dict).kubernetes | default dict }}
{{- range list "events" "incidents" }}
{{- if eq (get $kubernetes . | toString) "true" }}{{ . }} {{ end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* A port that is reached from outside of the pod. */ -}}
{{- define "server.port" -}}
{{- if not (regexMatch "^(0\\.0\\.0\\.0|\\[::\\]):" .address) }}
{{- fail (printf "%s: %s cannot be reached from outside the pod; use 0.0.0.0:PORT or [::]:PORT" .key .address) }}
{{- end }}
{{- regexFind "[0-9]+$" .address }}
{{- end }}
